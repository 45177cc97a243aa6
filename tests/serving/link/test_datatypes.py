"""Every datatype, sent over the link to a host, through its runner, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from serving.link.calls import BatchFailed
from tests.onnx_models import identity
from tests.serving.link.hosts import Connect, in_time, running_host
from tests.tensors import assert_equal, sample_array
from variants.catalog.catalog import Model, TensorSpec
from variants.catalog.datatype import NUMPY
from variants.runtime.onnx import OnnxRunner
from variants.runtime.torch import TorchRunner


@pytest.mark.parametrize("datatype", NUMPY)
async def test_an_onnx_model_is_served_in_every_datatype(connect: Connect, datatype: str) -> None:
    array = sample_array(datatype, (3, 5))
    with running_host(OnnxRunner(identity({"x": datatype}), threads=1)) as host:
        result = await in_time(connect(host.address).run({"x": array}))
    assert_equal(result.outputs, {"same x": array})


async def test_a_torch_model_is_served_in_bfloat16(connect: Connect) -> None:
    model = Model(
        name="m",
        factory="m:f",
        weights_sha256="",
        datasets_sha256="",
        inputs=(TensorSpec(name="x", datatype="BF16", shape=(-1, 5)),),
        outputs=(TensorSpec(name="y", datatype="BF16", shape=(-1, 5)),),
    )
    array = sample_array("BF16", (3, 5))
    with running_host(TorchRunner(nn.Identity(), model, threads=torch.get_num_threads())) as host:
        result = await in_time(connect(host.address).run({"x": array}))
    assert_equal(result.outputs, {"y": array})


async def test_bytes_that_are_not_text_fail_their_batch_but_not_the_host(connect: Connect) -> None:
    text = np.array([["é\0".encode(), b""]], "O")
    with running_host(OnnxRunner(identity({"x": "BYTES"}), threads=1)) as host:
        connection = connect(host.address)
        with pytest.raises(BatchFailed, match="the batch failed"):
            await in_time(connection.run({"x": np.array([[b"\xff", b""]], "O")}))
        result = await in_time(connection.run({"x": text}))
    assert_equal(result.outputs, {"same x": text})
