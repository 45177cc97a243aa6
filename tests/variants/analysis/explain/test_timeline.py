"""The profiles of onnxruntime and torch."""

from __future__ import annotations

import time

import numpy as np
from torch import Tensor, nn

from tests.variants import tiny_conv, two_inputs
from variants.analysis.explain.graph import Graph
from variants.analysis.explain.timeline import profile_onnx, profile_torch
from variants.build.build import create_artifact
from variants.model.dataset import TrainingData


def test_nodes_of_a_convolutional_network_have_their_layer() -> None:
    piece, samples = tiny_conv.state(), tiny_conv.split(4).samples
    model = create_artifact(piece, TrainingData(tiny_conv.split(4), tiny_conv.split(4)))[1][
        "model.onnx"
    ]
    layers = {name: stored.shape for name, stored in Graph(model).layers.items()}
    assert list(layers) == ["stem", "widen", "narrow", "head"]
    assert layers["widen"] == (16, 8, 3, 3)
    operators = profile_onnx(model, samples, threads=1, calls=3)
    products = [one for one in operators if one.kind in ("Conv", "FusedConv", "Gemm", "FusedGemm")]
    assert {one.layer for one in products} == {"stem", "widen", "narrow", "head"}


class Slow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.002)
        return x


def test_a_module_that_a_call_uses_three_times_counts_three_times() -> None:
    slow = Slow()
    (operator,) = profile_torch(
        nn.Sequential(slow, slow, slow), {"input": np.zeros((1, 1), np.float32)}, calls=3
    )
    assert operator.seconds >= 0.006


def test_several_inputs_are_profiled_and_embeddings_are_separate_layers() -> None:
    split = two_inputs.split(4)
    model = create_artifact(two_inputs.state(), TrainingData(split, split))[1]["model.onnx"]
    operators = profile_onnx(model, split.samples, threads=1, calls=3)
    assert {"embedding", "hidden", "head"} <= {operator.layer for operator in operators}
    assert list(Graph(model).layers) == ["hidden", "head"]
