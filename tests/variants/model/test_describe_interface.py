"""`describe_interface` with networks of several inputs, outputs and variable dimensions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.variants import tiny, tiny_conv, two_inputs
from variants.catalog.catalog import TensorSpec
from variants.model.dataset import Axes, Samples
from variants.model.loading import describe_interface

TEXTS = two_inputs.split(4).samples
NUMBERS = tiny.split(4).samples


class Tagger(nn.Module):
    """Three outputs: scores of a text, one number per token, and the mask as booleans."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = two_inputs.network()

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.classifier(ids, mask), self.classifier.embedding(ids).sum(dim=2), mask > 0


def test_inputs_have_the_names_and_the_order_of_the_samples() -> None:
    described = describe_interface(two_inputs.network(), TEXTS, two_inputs.AXES)
    assert described.inputs == (
        TensorSpec(name="ids", datatype="INT64", shape=(-1, -1)),
        TensorSpec(name="mask", datatype="INT64", shape=(-1, -1)),
    )
    assert described.outputs == (TensorSpec(name="logits", datatype="FP32", shape=(-1, 3)),)
    assert described.axes == two_inputs.AXES


def test_dimensions_without_an_axis_are_fixed() -> None:
    described = describe_interface(two_inputs.network(), TEXTS, {})
    assert [spec.shape for spec in described.inputs] == [(-1, two_inputs.TOKENS)] * 2


def test_output_dimensions_are_variable_if_they_depend_on_an_axis() -> None:
    assert describe_interface(Tagger(), TEXTS, two_inputs.AXES).outputs == (
        TensorSpec(name="logits", datatype="FP32", shape=(-1, 3)),
        TensorSpec(name="output_1", datatype="FP32", shape=(-1, -1)),
        TensorSpec(name="output_2", datatype="BOOL", shape=(-1, -1)),
    )


def test_dimensions_of_images_are_fixed() -> None:
    described = tiny_conv.state().interface
    assert described.inputs == (TensorSpec(name="input", datatype="FP32", shape=(-1, 3, 8, 8)),)
    assert described.outputs == (TensorSpec(name="logits", datatype="FP32", shape=(-1, 4)),)


def test_describe_does_not_modify_samples_and_running_statistics() -> None:
    network, samples = tiny_conv.network().train(), tiny_conv.split(4).samples
    before = network.state_dict()["stem_norm.running_mean"].clone()
    describe_interface(network, samples, {})
    assert torch.equal(network.state_dict()["stem_norm.running_mean"], before)
    np.testing.assert_array_equal(samples["input"], tiny_conv.split(4).samples["input"])


@pytest.mark.parametrize(
    ("build", "samples", "axes", "message"),
    [
        pytest.param(
            two_inputs.network, TEXTS, {"words": {1: "tokens"}},
            "axes name an unknown input 'words'; the inputs are ids, mask",
            id="axes of an unknown input",
        ),
        pytest.param(
            two_inputs.network, TEXTS, {"ids": {2: "tokens"}},
            "axes of 'ids': a variable dimension must be from 1 to 1, got 2",
            id="axes of an unknown dimension",
        ),
        pytest.param(
            tiny.network, NUMBERS, {"input": {0: "batch"}},
            "must be from 1 to 1, got 0", id="the batch is always variable",
        ),
        pytest.param(
            two_inputs.network, TEXTS, {"ids": {1: "tokens"}},
            r"cannot take a sample .*must match the size", id="axes of one of two inputs",
        ),
        pytest.param(
            tiny.network, NUMBERS, {"input": {1: "width"}},
            r"cannot take a sample \(.*1x4 and 8x16", id="axes of a dimension that is fixed",
        ),
        pytest.param(
            tiny.network, {"input": np.zeros((3, 7), np.float32)}, {},
            r"cannot take a sample \(input float32 \[1, 7\]\): .*1x7 and 8x16", id="wrong shape",
        ),
        pytest.param(
            tiny.network, {"input": np.zeros((3, 8))}, {},
            r"cannot take a sample \(input float64 \[1, 8\]\)", id="wrong datatype",
        ),
        pytest.param(
            two_inputs.network, {"ids": TEXTS["ids"] + 99, "mask": TEXTS["mask"]}, {},
            "cannot take a sample .*out of range", id="wrong values",
        ),
        pytest.param(
            two_inputs.network, {"ids": TEXTS["ids"]}, {},
            r"cannot take a sample \(ids int64 \[1, 12\]\): .*mask", id="too few inputs",
        ),
        pytest.param(
            tiny.network, TEXTS, {}, "cannot take a sample .*positional", id="too many inputs"
        ),
    ],
)  # fmt: skip
def test_samples_and_axes_that_do_not_fit_the_network_are_rejected(
    build: Callable[[], nn.Module], samples: Samples, axes: Axes, message: str
) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        describe_interface(build(), samples, axes)
