from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from tests.variants.catalog.gpus import describe_gpu
from variants.catalog.device import DEVICES, PROVIDERS, Device, gpu_names, is_on_gpu, provider


def test_each_kind_of_gpu_is_named_once(tmp_path: Path) -> None:
    driver = describe_gpu(tmp_path, "NVIDIA H200", "NVIDIA H200", "NVIDIA A10")
    assert gpu_names(driver) == ("NVIDIA A10", "NVIDIA H200")


def test_the_providers_are_those_of_onnxruntime() -> None:
    assert tuple(PROVIDERS) == DEVICES
    assert {*PROVIDERS.values()} <= {*onnxruntime.get_all_providers()}


@pytest.mark.parametrize(
    ("runtime", "device", "expected"),
    [
        ("onnx", "cpu", "CPUExecutionProvider"),
        ("onnx", "cuda", "CUDAExecutionProvider"),
        ("onnx", "tensorrt", "TensorrtExecutionProvider"),
        ("torch", "cpu", "torch CPU"),
        ("torch", "cuda", "torch CUDA"),
        ("torch", "tensorrt", "torch CUDA"),
    ],
)
def test_the_provider_follows_from_runtime_and_device(
    runtime: str, device: Device, expected: str
) -> None:
    assert provider(runtime, device) == expected
    assert is_on_gpu(expected) == (device != "cpu")
