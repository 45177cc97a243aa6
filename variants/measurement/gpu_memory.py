"""The memory in use on a GPU, by all processes: nvidia-smi reports it for every runtime alike."""

from __future__ import annotations

import os
import subprocess

_MIB = 2**20


def used_bytes() -> int:
    """Return the bytes in use on the first GPU that this process may use, to a MiB.

    Raises `ValueError` if nvidia-smi does not report it.
    """
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0] or "0"
    command = ["nvidia-smi", f"--id={gpu}", "--query-gpu=memory.used"]
    command.append("--format=csv,noheader,nounits")
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return int(printed.stdout.split()[0]) * _MIB
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise ValueError(f"nvidia-smi does not report the memory of GPU {gpu}: {error}") from None
