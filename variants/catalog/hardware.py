"""Which kind of machine is this, and with which libraries: what a measurement holds for.

Report cards compare only when their hardware has the same `key`. Nothing here may import torch
or onnxruntime: versions are read from the installed packages' metadata.
"""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from variants.catalog.catalog import Hardware

CPUINFO: Final = Path("/proc/cpuinfo")

FLAGS: Final = (
    "avx", "avx2", "fma", "f16c",
    "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "avx_vnni", "avx_vnni_int8", "avx_ne_convert",
    "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
"""The processor flags that inference kernels choose by, in Linux's spelling; x86, then ARM."""

LIBRARIES: Final = {
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "numpy": ("numpy",),
}
"""The libraries whose version can change a measurement, and the distributions that bring them."""

# What vendors add to a processor's name that does not tell two processors apart.
_DECORATION: Final = re.compile(
    r"\((?:r|tm|c)\)|@.*|\bw(?:ith|/) .*|\b\d+-core\b|\b(?:cpu|processor)\b", re.IGNORECASE
)


def hardware(threads: int, cpuinfo: Path = CPUINFO) -> Hardware:
    """Describe this machine as used with `threads` threads of compute per replica.

    The key is the processor's name without its decoration, then the threads: `amd-epyc-9r45-t1`.
    A name without a number in it names no model (virtual machines often say just `AMD EPYC`), so
    the processor's family and model number join it: `amd-epyc-f26m2-t1`.

    Raises `ValueError` if `threads` is below 1.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    fields = _first_processor(cpuinfo.read_text() if cpuinfo.is_file() else "")
    processor = _processor(fields)
    present = f"{fields.get('flags', '')} {fields.get('Features', '')}".split()
    return Hardware(
        key=f"{_slug(processor, fields)}-t{threads}",
        processor=processor,
        flags=tuple(flag for flag in FLAGS if flag in present),
        threads=threads,
    )


def libraries() -> dict[str, str]:
    """Return the versions of python and of every library in `LIBRARIES` that is installed."""
    versions = {"python": platform.python_version()}
    for name, distributions in LIBRARIES.items():
        for distribution in distributions:
            try:
                versions[name] = version(distribution)
            except PackageNotFoundError:
                continue
            break
    return versions


def _first_processor(cpuinfo: str) -> dict[str, str]:
    block = cpuinfo.strip().split("\n\n")[0]
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _processor(fields: dict[str, str]) -> str:
    if name := fields.get("model name"):
        return name
    if "CPU part" in fields:  # Linux gives an ARM core's numbers and no name
        return f"{platform.machine()} {fields.get('CPU implementer', '')} {fields['CPU part']}"
    return platform.processor() or platform.machine() or "unknown"


def _slug(processor: str, fields: dict[str, str]) -> str:
    name = _DECORATION.sub(" ", processor)
    if not re.search(r"\d", name) and {"cpu family", "model"} <= fields.keys():
        name = f"{name} f{fields['cpu family']}m{fields['model']}"
    return "-".join(re.findall(r"[a-z0-9]+", name.lower())) or "unknown"
