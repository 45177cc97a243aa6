"""With the real onnxruntime. Without a GPU, its GPU providers can be listed, but not loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from variants.catalog.device import PROVIDERS, Device, gpu_names
from variants.runtime.cache import cache_folder
from variants.runtime.execution_provider import (
    RECORD_OPERATORS,
    operators_by_provider,
    provider_options,
)
from variants.runtime.onnx import OnnxRunner

WITHOUT_GPU = pytest.mark.skipif(bool(gpu_names()), reason="this machine has a GPU")
WITH_GPU = pytest.mark.skipif(not gpu_names(), reason="this machine has no GPU")
GPUS: tuple[Device, ...] = ("cuda", "tensorrt")


def relu() -> bytes:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    serialized: bytes = model.SerializeToString()
    return serialized


@WITHOUT_GPU
@pytest.mark.parametrize("device", GPUS)
def test_a_gpu_that_cannot_be_used_is_an_error_and_never_the_cpu(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=f"the device `{device}` ") as caught:
        OnnxRunner(relu(), threads=1, device=device)
    message = str(caught.value)
    available = onnxruntime.get_available_providers()
    assert ", ".join(available) in message
    assert "\n" not in message
    if PROVIDERS[device] in available:
        assert "GPUs of this machine: none" in message
        assert "or use the device `cpu`" in message
    else:
        assert "install onnxruntime-gpu instead of onnxruntime" in message


@WITHOUT_GPU
@pytest.mark.skipif(
    PROVIDERS["cuda"] not in onnxruntime.get_available_providers(),
    reason="this onnxruntime is not the one for GPUs",
)
def test_the_message_names_the_missing_libraries() -> None:
    with pytest.raises(ValueError, match=r"libraries cannot be loaded: .*libcublas"):
        OnnxRunner(relu(), threads=1, device="cuda")


def test_onnxruntime_itself_falls_back_which_is_why_the_runner_checks() -> None:
    if gpu_names():
        pytest.skip("this machine has a GPU")
    session = onnxruntime.InferenceSession(relu(), providers=["CUDAExecutionProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_the_preferred_provider_comes_first_and_the_cpu_last() -> None:
    by_device = {
        device: [name for name, _ in provider_options(device, Path("engines"))]
        for device in PROVIDERS
    }
    assert by_device == {
        "cpu": ["CPUExecutionProvider"],
        "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
        "tensorrt": [
            "TensorrtExecutionProvider",
            "CUDAExecutionProvider",
            "CPUExecutionProvider",
        ],
    }


def test_tensorrt_looks_for_2_of_4_weights_and_cuda_computes_without_tf32() -> None:
    options = dict(provider_options("tensorrt", Path("engines")))
    tensorrt = options["TensorrtExecutionProvider"]
    assert (tensorrt["trt_sparsity_enable"], tensorrt["trt_fp16_enable"]) == ("True", "True")
    assert tensorrt["trt_engine_cache_path"] == "engines"
    assert options["CUDAExecutionProvider"] == {"use_tf32": "0"}


def test_operators_are_listed_by_the_provider_that_runs_them() -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(RECORD_OPERATORS, "1")
    session = onnxruntime.InferenceSession(relu(), options, providers=["CPUExecutionProvider"])
    assert operators_by_provider(session) == {"CPUExecutionProvider": ("Relu",)}


def test_the_cache_is_in_the_folder_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/paretoserve")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "paretoserve"


@WITH_GPU
@pytest.mark.parametrize("device", GPUS)
def test_a_gpu_computes_the_same_as_the_cpu(device: Device) -> None:
    inputs = {"x": np.linspace(-2, 2, 32, dtype=np.float32).reshape(8, 4)}
    runner = OnnxRunner(relu(), threads=1, device=device)
    assert runner.elsewhere == {}
    expected = OnnxRunner(relu(), threads=1)(inputs)["y"]
    np.testing.assert_allclose(runner(inputs)["y"], expected, rtol=1e-3)
