"""Detection of the hardware and of the library versions that a measurement depends on.

Report cards are comparable only if the `key` of their hardware is equal. This module may not
import torch or onnxruntime: versions come from the metadata of the installed packages.
"""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from variants.catalog.catalog import Hardware
from variants.catalog.cpus import available_cpus
from variants.catalog.device import DRIVER, Device, gpu_names, is_gpu

CPUINFO: Final = Path("/proc/cpuinfo")

FLAGS: Final = (
    "avx", "avx2", "fma", "f16c",
    "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "avx_vnni", "avx_vnni_int8", "avx_ne_convert",
    "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
"""Processor flags that select inference kernels, in the spelling of Linux; x86, then ARM."""

LIBRARIES: Final = {
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "numpy": ("numpy",),
}
"""Libraries whose version affects measurements, with the distributions that install them."""

# Parts of processor names that do not distinguish processors.
_DECORATION: Final = re.compile(
    r"\((?:r|tm|c)\)|@.*|\bw(?:ith|/) .*|\b\d+-core\b|\b(?:cpu|processor)\b", re.IGNORECASE
)


def hardware(
    threads: int, device: Device = "cpu", *, cpuinfo: Path = CPUINFO, driver: Path = DRIVER
) -> Hardware:
    """Return the hardware of this machine with `threads` compute threads per replica.

    The key is the simplified processor name and the thread count, such as `amd-epyc-9r45-t1`. Names
    without a digit do not identify a model (virtual machines often report `AMD EPYC`), so the
    family and model numbers are appended: `amd-epyc-f26m2-t1`. On a GPU its name and the device
    follow, such as `amd-epyc-9r45-t1-nvidia-h200-cuda`, since a small batch also takes CPU time.

    Raises `ValueError` if `threads` is below 1, or if the device is a GPU and there is none.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    gpu = " + ".join(gpu_names(driver)) if is_gpu(device) else None
    if gpu == "":
        raise ValueError(
            f"the device `{device}` needs an NVIDIA GPU, and this machine has none: neither "
            f"{driver} nor nvidia-smi names one; install the driver, or use the device `cpu`"
        )
    fields = _first_processor(cpuinfo.read_text() if cpuinfo.is_file() else "")
    processor = _processor(fields)
    machine_flags = f"{fields.get('flags', '')} {fields.get('Features', '')}".split()
    return Hardware(
        key=f"{_slug(processor, fields)}-t{threads}"
        + ("" if gpu is None else f"-{_words(gpu)}-{device}"),
        processor=processor,
        flags=tuple(flag for flag in FLAGS if flag in machine_flags),
        threads=threads,
        device=device,
        gpu=gpu,
        cpus=available_cpus(),
    )


def libraries() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries of `LIBRARIES`."""
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
    if "CPU part" in fields:  # Linux reports numbers instead of a name for ARM cores
        return f"{platform.machine()} {fields.get('CPU implementer', '')} {fields['CPU part']}"
    return platform.processor() or platform.machine() or "unknown"


def _slug(processor: str, fields: dict[str, str]) -> str:
    name = _DECORATION.sub(" ", processor)
    if not re.search(r"\d", name) and {"cpu family", "model"} <= fields.keys():
        name = f"{name} f{fields['cpu family']}m{fields['model']}"
    return _words(name) or "unknown"


def _words(name: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))
