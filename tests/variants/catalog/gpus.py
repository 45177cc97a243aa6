"""GPUs as the driver describes them."""

from __future__ import annotations

from pathlib import Path


def describe_gpu(folder: Path, *names: str) -> Path:
    """Write descriptions in the form of the driver of NVIDIA; return the driver's folder."""
    driver = folder / "gpus"
    for number, name in enumerate(names):
        gpu = driver / f"0000:{number:02x}:00.0"
        gpu.mkdir(parents=True)
        (gpu / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 42\n")
    return driver
