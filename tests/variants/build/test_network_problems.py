"""Networks that are not plain are refused, and the sentence says what would be right."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.variants import tiny
from variants.build.network_problems import name_problems, network_problems


def _mixed() -> nn.Module:
    network = tiny.network()
    network[2].half()
    return network


def _meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(8, 3)


def _spectral() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3)))


def _old_spectral() -> nn.Module:
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(8, 3)))


def _complex() -> nn.Module:
    network = tiny.network()
    network.register_parameter("phase", nn.Parameter(torch.ones(2, dtype=torch.complex64)))
    return network


def _sparse() -> nn.Module:
    network = tiny.network()
    network.register_buffer("links", torch.eye(3).to_sparse())
    return network


def _extra_state() -> nn.Module:
    class Counting(nn.Linear):
        def get_extra_state(self) -> int:
            return 3

    return Counting(8, 3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tiny.network().half(), r"weights are FP16 \(0.weight, 0.bias, 2.w.* and 3 more"),
        (lambda: tiny.network().bfloat16(), r"weights are BF16 .*: call \.float\(\) on"),
        (lambda: tiny.network().double(), r"weights are FP64 .* the weights file may stay"),
        (_mixed, r"weights are FP16 \(2.weight, 2.bias\)"),
        (_complex, r"weights are complex64 \(phase\): parameters must be FP32"),
        (lambda: nn.LazyLinear(3), r"parameters without a shape \(weight, bias\): "),
        (_meta, r"tensors on the device meta \(weight, bias\): build the network outside"),
        (_spectral, r"layers that compute their weights from others: 0"),
        (_old_spectral, r"layers that compute their weights from others: 0"),
        (lambda: nn.DataParallel(tiny.network()), r"for several GPUs: return its \.module"),
        (
            lambda: nn.Sequential(nn.DataParallel(nn.Linear(8, 3))),
            r"a wrapper for several GPUs \(0\): return its \.module",
        ),
        (lambda: torch.compile(tiny.network()), r"compiled by torch\.compile: return"),
        (_sparse, r"quantized or sparse ones \(links\)"),
        (_extra_state, r"are no tensors \(_extra_state\), .*: leave out get_"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*(is deprecated|Lazy modules).*")
def test_it_is_refused(build: Callable[[], nn.Module], message: str) -> None:
    (problem,) = network_problems(build())
    assert re.search(message, problem), problem


@pytest.mark.filterwarnings("ignore:.*torch.jit.*", "ignore:.*is deprecated.*")
def test_a_scripted_module_is_refused() -> None:
    (problem,) = network_problems(torch.jit.script(tiny.network()))
    assert "a scripted module" in problem


@pytest.mark.filterwarnings("ignore:.*is deprecated.*", "ignore:.*will be removed.*")
def test_quantized_layers_are_refused() -> None:
    quantize: Any = torch.ao.quantization.quantize_dynamic
    quantized = quantize(tiny.network(), {nn.Linear})
    (problem,) = network_problems(quantized)
    assert "quantized layers (0, 2, 4): return the network in FP32" in problem


def test_buffers_may_have_any_type() -> None:
    class Scaled(nn.Module):
        scale: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Linear(8, 3)
            self.register_buffer("scale", torch.ones(8, dtype=torch.float64))

    assert network_problems(Scaled()) == []


def test_names_of_inputs_that_are_taken_are_refused() -> None:
    inputs = ["input", "Input", "an input", "a.b", "0.weight", "logits", " "]
    problems = name_problems(tiny.network(), inputs, ["logits"])
    assert len(problems) == 3
    for name, problem in zip(("0.weight", "logits", " "), problems, strict=True):
        assert f"input {name!r}" in problem
