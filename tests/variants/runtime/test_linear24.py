from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from variants.runtime.linear24 import mask24, pack, unpack


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """Draw weights with whole groups. Few distinct values make ties and zeros common."""
    rows, groups = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    values = st.sampled_from([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1e-30, 3e38])
    flat = draw(st.lists(values, min_size=rows * groups * 4, max_size=rows * groups * 4))
    return torch.tensor(flat).reshape(rows, groups * 4)


@given(weights())
def test_the_mask_keeps_the_two_largest_of_every_four(weight: Tensor) -> None:
    mask = mask24(weight).reshape(-1, 4)
    groups = weight.abs().reshape(-1, 4)
    assert (mask.sum(dim=1) == 2).all()
    smallest_kept = groups.masked_fill(~mask, torch.inf).amin(dim=1)
    largest_dropped = groups.masked_fill(mask, -torch.inf).amax(dim=1)
    assert (smallest_kept >= largest_dropped).all()


@given(weights())
def test_unpacking_restores_the_packed_weight(weight: Tensor) -> None:
    sparse = torch.where(mask24(weight), weight, 0.0)
    values, indices = pack(sparse)
    assert torch.equal(unpack(values, indices), sparse)


def test_the_packed_form_is_the_documented_one() -> None:
    values, indices = pack(
        torch.tensor([[0.0, 5.0, 0.0, 7.0, 6.0, 0.0, 8.0, 0.0, 0.0, 0.0, 1.0, 2.0]])
    )
    assert values.tolist() == [[5.0, 7.0, 6.0, 8.0, 1.0, 2.0]]
    # Columns 1, 3, 0, 2 from the lowest bits up, then 2, 3 and two unused ones.
    assert indices.tolist() == [[0b10_00_11_01, 0b11_10]]
    assert indices.dtype == torch.uint8


def test_tensors_of_no_weight_are_rejected() -> None:
    values, indices = pack(torch.tensor([[1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 4.0]]))
    with pytest.raises(ValueError, match=r"indices torch.uint8 \[1, 1\], got torch.int32"):
        unpack(values, indices.int())
    with pytest.raises(ValueError, match=r"expected indices torch.uint8 \[1, 1\], got .*\[1, 2\]"):
        unpack(values, indices.repeat(1, 2))
    with pytest.raises(ValueError, match=r"expected values \[out, in/2\], got \[1, 3\]"):
        unpack(values[:, :3], indices)
    for byte in (0b11_10_00_01, 0b10_10_01_00):  # descending, then twice the same column
        with pytest.raises(ValueError, match="indices must ascend within each group"):
            unpack(values, torch.tensor([[byte]], dtype=torch.uint8))


def test_packed_fp32_weights_take_17_bits_each() -> None:
    weight = torch.ones(64, 64)
    stored = pack(weight * mask24(weight))
    assert sum(tensor.nbytes for tensor in stored) == weight.numel() * 17 / 8


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        pytest.param(torch.ones(2, 8), "4 groups of 4 hold more than 2", id="not sparse"),
        pytest.param(torch.zeros(2, 6), "multiple of 4, got .2, 6.", id="incomplete group"),
        pytest.param(torch.zeros(8), "multiple of 4, got .8.", id="not a matrix"),
    ],
)
def test_pack_rejects(weight: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(weight)
