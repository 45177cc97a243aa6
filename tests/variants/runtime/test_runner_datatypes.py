from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.onnx_models import ONNX, casting, identity
from tests.tensors import assert_equal, sample_array
from variants.catalog.catalog import Model, TensorSpec
from variants.catalog.datatype import NUMPY
from variants.catalog.raw import from_raw, to_raw
from variants.runtime.onnx import OnnxRunner
from variants.runtime.torch import TorchRunner


def test_every_datatype_is_tested() -> None:
    assert set(ONNX) == set(NUMPY)


@pytest.mark.parametrize("datatype", NUMPY)
@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (0, 2), (2, 0)])
def test_onnxruntime_accepts_and_returns_every_datatype(
    datatype: str, shape: tuple[int, int]
) -> None:
    array = sample_array(datatype, shape)
    runner = OnnxRunner(identity({"x": datatype}), threads=1)
    assert_equal(runner({"x": array}), {"same x": array})


@pytest.mark.parametrize("datatype", NUMPY)
def test_onnxruntime_accepts_every_memory_layout(datatype: str) -> None:
    array = sample_array(datatype, (4, 6))
    runner = OnnxRunner(identity({"x": datatype}), threads=1)
    for view in (array.T, array[::-1, ::2], np.broadcast_to(array[:1], (3, 6))):
        assert_equal(runner({"x": view}), {"same x": view})
    received = from_raw(b"-" + bytes(to_raw(array)), NUMPY["UINT8"], (len(to_raw(array)) + 1,))
    if datatype != "BYTES":
        unaligned = received[1:].view(array.dtype).reshape(array.shape)
        assert_equal(runner({"x": unaligned}), {"same x": array})


@pytest.mark.parametrize(
    "datatypes",
    [
        pytest.param({"x": "FP32", "y": "INT64", "z": "BYTES"}, id="text among numbers"),
        pytest.param({"x": "FP32", "y": "BF16", "z": "BOOL"}, id="bfloat16 among numbers"),
    ],
)
def test_a_model_may_mix_datatypes(datatypes: dict[str, str]) -> None:
    inputs = {name: sample_array(datatype, (2, 3)) for name, datatype in datatypes.items()}
    outputs = OnnxRunner(identity(datatypes), threads=1)(inputs)
    assert_equal(outputs, {f"same {name}": array for name, array in inputs.items()})


def test_bf16_and_text_inputs_together() -> None:
    inputs = {
        "x": np.array([[1.5, -2.0]]).astype(NUMPY["BF16"]),
        "y": sample_array("BYTES", (1, 2)),
    }
    runner = OnnxRunner(casting({"x": ("BF16", "FP32"), "y": ("BYTES", "BYTES")}), threads=1)
    expected = {"same x": np.array([[1.5, -2.0]], np.float32), "same y": inputs["y"]}
    assert_equal(runner(inputs), expected)


def test_bf16_and_text_outputs_together() -> None:
    model = casting({"x": ("FP32", "BF16"), "y": ("INT64", "BYTES")})
    outputs = OnnxRunner(model, threads=1)({"x": np.ones((1, 2), "f4"), "y": np.array([[7, -8]])})
    assert outputs["same x"].astype(float).tolist() == [[1.0, 1.0]]
    assert outputs["same y"].tolist() == [[b"7", b"-8"]]


def test_bf16_outputs_are_not_overwritten_by_the_next_batch() -> None:
    runner = OnnxRunner(identity({"x": "BF16"}), threads=1)
    first = runner({"x": np.ones((64, 64), NUMPY["BF16"])})["same x"]
    for _ in range(3):
        runner({"x": np.zeros((64, 64), NUMPY["BF16"])})
    assert (first == 1).all()


def test_loading_a_model_with_text_inputs_and_bf16_outputs_is_rejected() -> None:
    model = casting({"x": ("FP32", "BF16"), "y": ("BYTES", "BYTES")})
    with pytest.raises(ValueError, match="string inputs and bfloat16 outputs are unsupported"):
        OnnxRunner(model, threads=1)


def test_bytes_that_are_not_utf8_fail_without_affecting_the_next_batch() -> None:
    runner = OnnxRunner(identity({"x": "BYTES"}), threads=1)
    with pytest.raises(ValueError, match="utf-8"):
        runner({"x": np.array([[b"ok", b"\xff\xfe"]], "O")})
    assert runner({"x": np.array([[b"ok", b""]], "O")})["same x"].tolist() == [[b"ok", b""]]


class Last(nn.Module):
    """Returns the last value of each sample and the input. torch cannot add wide UINT types."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[:, -1], x


@pytest.mark.parametrize("datatype", sorted(NUMPY.keys() - {"BYTES"}))
def test_torch_accepts_and_returns_every_datatype_except_bytes(datatype: str) -> None:
    names = {"name": "x", "datatype": datatype, "shape": (-1, 3)}
    spec = TensorSpec.model_validate(names)
    model = Model(
        name="m",
        factory="m:f",
        weights_sha256="",
        datasets_sha256="",
        inputs=(spec,),
        outputs=(
            TensorSpec.model_validate({**names, "name": "last", "shape": (-1,)}),
            TensorSpec.model_validate({**names, "name": "same"}),
        ),
    )
    runner = TorchRunner(Last(), model, threads=torch.get_num_threads())
    array = sample_array(datatype, (2, 3))
    expected = {"last": array[:, -1], "same": array}
    received = from_raw(bytes(to_raw(array)), array.dtype, array.shape)
    for layout in (array, received, np.asfortranarray(array)):
        assert_equal(runner({"x": layout}), expected)
