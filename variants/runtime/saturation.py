"""Whether a processor can lose part of a sum of 8-bit products.

onnxruntime multiplies unsigned 8-bit activations by signed 8-bit weights (U8S8). AVX2 and AVX-512
without VNNI add two products in 16 bits (`vpmaddubsw`), and 2 * 255 * 127 does not fit: the sum
saturates at 32767. Weights from -64 to 64 (7 bits) always fit.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

EXACT_FLAGS: Final = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
"""Flags of instructions that add 8-bit products in 32 bits: x86 (VNNI, AMX), then ARM (dot)."""


def saturates(flags: Collection[str]) -> bool:
    """Return whether sums of U8S8 products with 8-bit weights may saturate.

    `flags` are the processor's, as in `Hardware.flags`. A processor without any of `EXACT_FLAGS`
    is assumed to saturate.
    """
    return EXACT_FLAGS.isdisjoint(flags)
