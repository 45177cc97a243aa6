"""Samples of another type than the network takes are refused with the conversion that helps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from tests.variants import tiny, two_inputs
from variants.model.input_types import accepted_types
from variants.model.loading import describe_interface


@pytest.mark.parametrize("kind", ["float64", "float16", "int64", "uint8", "bool"])
def test_arrays_for_a_network_in_fp32(kind: str) -> None:
    samples = {"input": tiny.split(4).samples["input"].astype(kind)}
    message = (
        rf"convert 'input' from {kind} to float32 \(\.astype\(np\.float32\)\) in datasets\(\)$"
    )
    with pytest.raises(ValueError, match=message):
        describe_interface(tiny.network(), samples, {})


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_ids_for_an_embedding(kind: Any) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(20, 3)

        def forward(self, ids: Tensor) -> Tensor:
            vectors: Tensor = self.words(ids).mean(1)
            return vectors

    samples = {"ids": np.ones((2, 5), kind)}
    assert "to int64" in accepted_types(Words(), samples)


def test_only_the_input_of_the_wrong_type_is_named() -> None:
    samples = dict(two_inputs.split(2).samples)
    samples["ids"] = samples["ids"].astype(np.float64)
    hint = accepted_types(two_inputs.network(), samples)
    assert hint == "convert 'ids' from float64 to int64 (.astype(np.int64)) in datasets()"


def test_another_problem_gets_no_hint() -> None:
    samples = {"input": np.zeros((2, 9), np.float64)}
    assert accepted_types(tiny.network(), samples) == ""
    with pytest.raises(
        ValueError, match=r"cannot take a sample \(input float64 \[1, 9\]\): Runtime"
    ):
        describe_interface(tiny.network(), samples, {})
