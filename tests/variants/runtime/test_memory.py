from __future__ import annotations

import ctypes

import psutil
import pytest

from variants.runtime.memory import return_freed_memory

BLOCK = 1 << 16


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc"
)
def test_memory_between_blocks_in_use_is_returned() -> None:
    blocks = [bytearray(b"x" * BLOCK) for _ in range(2048)]
    in_use = blocks[::16]  # glibc itself returns only memory above the last block in use
    del blocks
    resident = psutil.Process().memory_info().rss
    return_freed_memory()
    assert resident - psutil.Process().memory_info().rss > 1024 * BLOCK
    assert len(in_use) == 128
