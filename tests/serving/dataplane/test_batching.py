from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.dataplane.batching import join, split

sizes = st.lists(st.integers(0, 5), min_size=1, max_size=6)


def numbered(size: int, start: int) -> dict[str, npt.NDArray[Any]]:
    rows = np.arange(start, start + size)
    return {"row": rows, "image": np.repeat(rows, 6).reshape(size, 2, 3).astype(np.float32)}


@given(sizes)
def test_splitting_a_joined_batch_returns_the_requests(sizes: list[int]) -> None:
    starts = np.cumsum([0, *sizes]).tolist()
    requests = [numbered(size, start) for size, start in zip(sizes, starts, strict=False)]
    joined = join(requests)
    assert joined["row"].tolist() == list(range(sum(sizes)))
    parts = split(joined, sizes)
    assert len(parts) == len(requests)
    for part, request in zip(parts, requests, strict=True):
        assert part.keys() == request.keys()
        for name, array in request.items():
            np.testing.assert_array_equal(part[name], array, strict=True)


def test_a_single_request_is_joined_without_a_copy() -> None:
    request = numbered(3, 0)
    assert join([request]) is request


def test_splitting_returns_views() -> None:
    outputs = {"logits": np.zeros((4, 2))}
    for part in split(outputs, [1, 3]):
        assert part["logits"].base is outputs["logits"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param(
            np.zeros((2, 3)), r"logits has shape \(2, 3\) for a batch of 3", id="too few samples"
        ),
        pytest.param(np.zeros(4), r"logits has shape \(4,\) for a batch of 3", id="too many"),
        pytest.param(
            np.array(1.0), r"logits has shape \(\) for a batch of 3", id="no batch dimension"
        ),
    ],
)
def test_outputs_without_one_row_per_sample_are_refused(
    output: npt.NDArray[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        split({"logits": output}, [1, 2])
