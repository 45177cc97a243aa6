"""What keeps a weights file from being loaded is said in one sentence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.variants import tiny
from variants.model.state_dict import mismatches

EXPECTED = tiny.network().state_dict()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
def test_a_prefix_of_a_wrapper_is_named(prefix: str) -> None:
    (problem,) = mismatches(EXPECTED, {prefix + name: t for name, t in EXPECTED.items()})
    assert f"its names start with {prefix!r}" in problem
    assert f"removeprefix({prefix!r})" in problem


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_types_are_converted(kind: torch.dtype) -> None:
    assert mismatches(EXPECTED, {name: t.to(kind) for name, t in EXPECTED.items()}) == []


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64])
def test_other_types_are_not(kind: torch.dtype) -> None:
    stored: dict[str, Tensor] = {**EXPECTED, "2.weight": EXPECTED["2.weight"].to(kind)}
    name = str(kind).removeprefix("torch.")
    assert mismatches(EXPECTED, stored) == [f"it has 2.weight {name} where the network has float32"]


def test_extra_and_missing_names_are_listed() -> None:
    stored = {f"x.{name}": tensor for name, tensor in EXPECTED.items()}
    missing, unknown = mismatches(EXPECTED, stored)
    assert missing == "it lacks 0.weight, 0.bias, 2.weight and 3 more"
    assert unknown == "the network has no x.0.weight, x.0.bias, x.2.weight and 3 more"
