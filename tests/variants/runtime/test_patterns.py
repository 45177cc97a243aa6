from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from variants.runtime.patterns import keep_n_of_m, keep_share, keep_share_of_all, keep_share_of_rows


@st.composite
def scores(draw: st.DrawFn, multiple: int = 1) -> Tensor:
    """Draw scores of any shape. Few distinct values make ties common."""
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 6)) * multiple
    values = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3e38])
    flat = draw(st.lists(values, min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(flat).reshape(rows, columns)


def _is_best(scores: Tensor, mask: Tensor) -> bool:
    """Return whether no removed score exceeds a kept one, along the last dimension."""
    smallest_kept = scores.masked_fill(~mask, torch.inf).amin(dim=-1)
    return bool((smallest_kept >= scores.masked_fill(mask, -torch.inf).amax(dim=-1)).all())


def _removed_count(share: float, size: int) -> int:
    """Return the number of removed weights: the rounded share, but never all."""
    return min(round(share * size), size - 1)


@given(scores(), st.floats(0, 1))
def test_keep_share_removes_the_lowest_scores_of_a_matrix(scores: Tensor, removed: float) -> None:
    mask = keep_share(scores, removed)
    assert int((~mask).sum()) == _removed_count(removed, scores.numel())
    assert _is_best(scores.flatten(), mask.flatten())


@given(scores(), st.floats(0, 1))
def test_keep_share_of_rows_removes_the_lowest_scores_of_each_row(
    scores: Tensor, removed: float
) -> None:
    mask = keep_share_of_rows(scores, removed)
    assert ((~mask).sum(dim=1) == _removed_count(removed, scores.shape[1])).all()
    assert _is_best(scores, mask)


@given(scores(), scores(), st.floats(0, 1))
def test_keep_share_of_all_removes_the_lowest_scores_of_all_matrices(
    one: Tensor, two: Tensor, removed: float
) -> None:
    masks = keep_share_of_all({"one": one, "two": two}, removed)
    assert (masks["one"].shape, masks["two"].shape) == (one.shape, two.shape)
    everything = torch.cat([one.flatten(), two.flatten()])
    mask = torch.cat([masks["one"].flatten(), masks["two"].flatten()])
    assert int((~mask).sum()) == _removed_count(removed, everything.numel())
    assert _is_best(everything, mask)


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (3, 5), (4, 8)])
def test_keep_n_of_m_keeps_the_best_n_of_every_m(n: int, m: int) -> None:
    @given(scores(multiple=m))
    def check(scores: Tensor) -> None:
        mask = keep_n_of_m(scores, n, m).reshape(-1, m)
        assert (mask.sum(dim=1) == n).all()
        assert _is_best(scores.reshape(-1, m), mask)

    check()


def test_of_equal_scores_the_first_are_kept() -> None:
    equal = torch.ones(2, 4)
    assert keep_share(equal, 0.75).tolist() == [[True, True, False, False], [False] * 4]
    assert keep_share_of_rows(equal, 0.5).tolist() == [[True, True, False, False]] * 2
    assert keep_n_of_m(equal, 1, 2).tolist() == [[True, False, True, False]] * 2


def test_scores_of_minus_infinity_are_never_kept() -> None:
    removed = -torch.inf
    scores = torch.tensor([[1.0, removed, removed, removed], [4.0, 3.0, 2.0, removed]])
    expected = [[True, False, False, False], [True, True, True, False]]
    assert keep_share(scores, 0.25).tolist() == expected
    assert keep_share_of_rows(scores, 0.0).tolist() == expected
    expected[1][2] = False
    assert keep_n_of_m(scores, 2, 4).tolist() == expected


def test_incomplete_groups_of_columns_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"2:4 needs .* a multiple of 4, got \[2, 6\]"):
        keep_n_of_m(torch.ones(2, 6), 2, 4)
