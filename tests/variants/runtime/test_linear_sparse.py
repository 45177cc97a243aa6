from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from variants.runtime.linear_sparse import MAX_COLUMNS, pack, unpack


@given(st.integers(1, 5), st.integers(1, 9), st.floats(0, 1), st.integers(0, 99))
def test_unpacking_restores_the_packed_weight(
    rows: int, columns: int, zeros: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    weight[torch.rand(rows, columns, generator=generator) < zeros] = 0
    assert torch.equal(unpack(*pack(weight), columns), weight)


def test_the_packed_form_is_the_documented_one() -> None:
    values, offsets, starts = pack(torch.tensor([[0.0, 5.0, 0.0, 7.0], [0.0] * 4, [1.0, 0, 0, 0]]))
    assert values.tolist() == [5.0, 7.0, 1.0]
    assert (offsets.tolist(), offsets.dtype) == ([1, 3, 0], torch.uint16)
    assert (starts.tolist(), starts.dtype) == ([0, 2, 2, 3], torch.int32)


def test_the_last_of_the_most_columns_fits_16_bits() -> None:
    weight = torch.zeros(1, MAX_COLUMNS)
    weight[0, -1] = 1
    assert torch.equal(unpack(*pack(weight), MAX_COLUMNS), weight)
    with pytest.raises(ValueError, match="at most 65,536 inputs"):
        pack(torch.zeros(1, MAX_COLUMNS + 1))


@pytest.mark.parametrize(
    ("offsets", "starts"),
    [
        ([0, 4], [0, 1, 2]),
        ([0, 1], [0, 2, 1]),
        ([0, 1], [1, 2, 2]),
        ([0, 1], [0, 1, 3]),
        ([1, 0], [0, 2, 2]),
        ([1, 1], [0, 2, 2]),
    ],
    ids=["column", "starts descend", "first", "last", "columns descend", "twice"],
)
def test_tensors_of_no_weight_are_rejected(offsets: list[int], starts: list[int]) -> None:
    with pytest.raises(ValueError, match="do not describe a weight of 4 inputs"):
        unpack(
            torch.ones(2),
            torch.tensor(offsets, dtype=torch.uint16),
            torch.tensor(starts, dtype=torch.int32),
            4,
        )


def test_tensors_of_other_dtypes_and_shapes_are_rejected() -> None:
    values, offsets, starts = pack(torch.eye(4))
    with pytest.raises(ValueError, match=r"expected offsets torch.uint16 \[4\], got torch.int32"):
        unpack(values, offsets.int(), starts, 4)
    with pytest.raises(ValueError, match=r"expected values torch.float32 \[4\], got torch.float64"):
        unpack(values.double(), offsets, starts, 4)
    with pytest.raises(ValueError, match=r"expected starts torch.int32 \[5\], got torch.int64"):
        unpack(values, offsets, starts.long(), 4)
    with pytest.raises(ValueError, match=r"expected offsets torch.uint16 \[4\], got .*\[3\]"):
        unpack(values, offsets[:3], starts, 4)
