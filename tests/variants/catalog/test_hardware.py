from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from tests.variants.catalog.gpus import describe_gpu
from variants.catalog.hardware import hardware, libraries


def cpuinfo(folder: Path, **fields: str) -> Path:
    path = folder / "cpuinfo"
    block = "".join(f"{key.replace('_', ' ')}\t: {value}\n" for key, value in fields.items())
    path.write_text(f"processor\t: 0\n{block}\nprocessor\t: 1\nmodel name\t: another\n\n")
    return path


@pytest.mark.parametrize(
    ("name", "key"),
    [
        pytest.param("AMD EPYC 9R45", "amd-epyc-9r45-t2", id="a plain name"),
        pytest.param("AMD EPYC 7763 64-Core Processor", "amd-epyc-7763-t2", id="AMD suffix"),
        pytest.param(
            "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
            "intel-xeon-platinum-8481c-t2",
            id="Intel suffix",
        ),
        pytest.param(
            "AMD Ryzen 7 7840U w/ Radeon 780M Graphics",
            "amd-ryzen-7-7840u-t2",
            id="graphics suffix",
        ),
        pytest.param("AMD EPYC", "amd-epyc-f26m2-t2", id="no digit: family and model are added"),
    ],
)
def test_the_key_names_the_processor_and_the_threads(name: str, key: str, tmp_path: Path) -> None:
    path = cpuinfo(tmp_path, model_name=name, cpu_family="26", model="2")
    machine = hardware(2, cpuinfo=path)
    assert (machine.key, machine.processor, machine.threads) == (key, name, 2)


def test_only_flags_that_select_inference_kernels_are_kept(tmp_path: Path) -> None:
    path = cpuinfo(tmp_path, model_name="X 1", flags="fpu avx2 avx512_vnni_not sse avx512f")
    assert hardware(1, cpuinfo=path).flags == ("avx2", "avx512f")


def test_an_arm_core_is_identified_by_its_numbers(tmp_path: Path) -> None:
    path = cpuinfo(tmp_path, Features="fp asimd i8mm", CPU_implementer="0x41", CPU_part="0xd4f")
    machine = hardware(1, cpuinfo=path)
    assert machine.key.endswith("-0x41-0xd4f-t1")
    assert machine.flags == ("asimd", "i8mm")


def test_hardware_has_a_key_without_cpuinfo(tmp_path: Path) -> None:
    machine = hardware(1, cpuinfo=tmp_path / "nothing")
    assert machine.key.endswith("-t1")
    assert machine.flags == ()


def test_zero_threads_are_rejected() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        hardware(0)


def test_the_versions_are_those_of_the_installed_libraries() -> None:
    import numpy as np
    import onnxruntime

    versions = libraries()
    assert versions["python"] == platform.python_version()
    assert versions["numpy"] == np.__version__
    assert versions["onnxruntime"] == onnxruntime.__version__
    assert "torch" in versions


def test_a_gpu_and_the_device_are_part_of_the_key(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : AMD EPYC 9R45\n")
    driver = describe_gpu(tmp_path, "NVIDIA H200")
    machine = hardware(2, "cuda", cpuinfo=cpuinfo, driver=driver)
    assert machine.key == "amd-epyc-9r45-t2-nvidia-h200-cuda"
    assert (machine.device, machine.gpu) == ("cuda", "NVIDIA H200")
    tensorrt = hardware(2, "tensorrt", cpuinfo=cpuinfo, driver=driver)
    on_cpu = hardware(2, cpuinfo=cpuinfo, driver=driver)
    assert tensorrt.key == "amd-epyc-9r45-t2-nvidia-h200-tensorrt"
    assert (on_cpu.key, on_cpu.gpu) == ("amd-epyc-9r45-t2", None)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine may have a GPU")
def test_a_gpu_that_is_not_there_is_an_error_that_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`cuda` needs an NVIDIA GPU.* use the device `cpu`"):
        hardware(1, "cuda", driver=tmp_path)
