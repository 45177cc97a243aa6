"""The bounds of the zoo accept correct rounding, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.zoo.cases import INT8, INT8_PACKED
from tests.zoo.comparison import (
    Answers,
    Errors,
    Serve,
    Wrong,
    require_equal,
    require_near,
    serve_with,
    torch_answers,
)
from tests.zoo.networks import SPECIMENS
from variants.model.dataset import Samples

SAMPLE = (
    "plain-mlp", "called-twice", "tied-embeddings", "two-towers", "residual-block", "unet",
    "transformer-encoder", "gru", "own-attention", "llama-block",
)  # fmt: skip


def served(network: nn.Module) -> Serve:
    return lambda batch: torch_answers(network, batch)


def samples(name: str) -> Samples:
    return SPECIMENS[name].data.datasets().validation.samples


def matrices(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in network.named_parameters():
        if parameter.ndim >= 2 and len(parameter) > 1:
            yield name, parameter


@torch.no_grad()
def damaged(network: nn.Module, name: str) -> nn.Module:
    """Return a copy in which the rows of a weight are rotated by one."""
    copied = copy.deepcopy(network)
    weight = copied.get_parameter(name)
    weight.copy_(weight.roll(1, 0))
    return copied


@torch.no_grad()
def quantized(network: nn.Module) -> nn.Module:
    """Return a copy whose weights are rounded to a grid of 7 bits for each row."""
    copied = copy.deepcopy(network)
    for _, weight in matrices(copied):
        step = weight.abs().flatten(1).amax(1).reshape(-1, *[1] * (weight.ndim - 1)) / 63
        weight.copy_(torch.round(weight / step) * step)
    return copied


@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.parametrize("errors", [INT8, INT8_PACKED], ids=["int8", "packed int8"])
def test_a_weight_in_the_wrong_place_exceeds_the_bound(name: str, errors: Errors) -> None:
    network = SPECIMENS[name].trained()
    accepted = []
    for weight, _ in matrices(network):
        try:
            require_near(
                served(damaged(network, weight)), network, samples(name), errors, jumps=False
            )
        except Wrong:
            continue
        accepted.append(weight)
    assert not accepted


@pytest.mark.parametrize("name", SAMPLE)
def test_correct_rounding_is_within_the_bound(name: str) -> None:
    network = SPECIMENS[name].trained()
    require_near(served(quantized(network)), network, samples(name), INT8, jumps=False)


def test_random_errors_leave_the_weights_as_they_were() -> None:
    network = SPECIMENS["plain-mlp"].trained()
    before = copy.deepcopy(network.state_dict())
    require_near(served(network), network, samples("plain-mlp"), INT8, jumps=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_equal_answers_are_required_of_every_batch_size_and_length() -> None:
    specimen = SPECIMENS["bag-of-words"]
    network, axes = specimen.trained(), specimen.data.axes
    shapes = set()

    def serve(batch: Samples) -> Answers:
        shapes.add(batch["ids"].shape)
        return torch_answers(network, batch)

    require_equal(serve, network, samples("bag-of-words"), axes)
    assert {size for size, _ in shapes} == {1, 3, 48}
    assert {length for _, length in shapes} == {1, 3, 6, 9}


@pytest.mark.parametrize("size", [1, 3, 48])
def test_a_wrong_answer_at_one_batch_size_is_found(size: int) -> None:
    network = SPECIMENS["plain-mlp"].trained()

    def serve(batch: Samples) -> Answers:
        (scores,) = torch_answers(network, batch)
        return [scores + np.float32(0.01) if len(scores) == size else scores]

    with pytest.raises(Wrong, match=rf"output 0 differs by 0.01 from torch, .*\[{size}, 8\]"):
        require_equal(serve, network, samples("plain-mlp"), {})


def test_outputs_of_another_type_are_wrong() -> None:
    network = SPECIMENS["plain-mlp"].trained()

    def serve(batch: Samples) -> Answers:
        return [scores.astype(np.float64) for scores in torch_answers(network, batch)]

    with pytest.raises(Wrong, match=r"outputs are .*float64.* instead of .*float32"):
        require_equal(serve, network, samples("plain-mlp"), {})


def test_outputs_in_another_order_are_wrong() -> None:
    serve = serve_with(
        lambda batch: {"other": batch["x"], "logits": batch["x"]}, ["logits", "other"]
    )
    with pytest.raises(Wrong, match="outputs are other, logits instead of logits, other"):
        serve({"x": np.zeros(2)})
