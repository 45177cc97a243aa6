from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from variants.runtime.patterns import keep_n_of_m, keep_share, keep_share_of_all, keep_share_of_rows


@st.composite
def scores(draw: st.DrawFn, multiple: int = 1) -> Tensor:
    """Any shape; few distinct values, so that ties are common."""
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 6)) * multiple
    values = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3e38])
    flat = draw(st.lists(values, min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(flat).reshape(rows, columns)


def _is_best(scores: Tensor, mask: Tensor) -> bool:
    """Whether nothing that goes is larger than anything that stays, along the last dimension."""
    least = scores.masked_fill(~mask, torch.inf).amin(dim=-1)
    return bool((least >= scores.masked_fill(mask, -torch.inf).amax(dim=-1)).all())


def _gone(share: float, size: int) -> int:
    """The nearest number to the share, but never all."""
    return min(round(share * size), size - 1)


@given(scores(), st.floats(0, 1))
def test_a_share_of_a_matrix_goes_and_the_best_stay(scores: Tensor, removed: float) -> None:
    mask = keep_share(scores, removed)
    assert int((~mask).sum()) == _gone(removed, scores.numel())
    assert _is_best(scores.flatten(), mask.flatten())


@given(scores(), st.floats(0, 1))
def test_a_share_of_each_row_goes_and_the_best_stay(scores: Tensor, removed: float) -> None:
    mask = keep_share_of_rows(scores, removed)
    assert ((~mask).sum(dim=1) == _gone(removed, scores.shape[1])).all()
    assert _is_best(scores, mask)


@given(scores(), scores(), st.floats(0, 1))
def test_a_share_of_all_goes_wherever_it_is(one: Tensor, two: Tensor, removed: float) -> None:
    masks = keep_share_of_all({"one": one, "two": two}, removed)
    assert (masks["one"].shape, masks["two"].shape) == (one.shape, two.shape)
    everything = torch.cat([one.flatten(), two.flatten()])
    mask = torch.cat([masks["one"].flatten(), masks["two"].flatten()])
    assert int((~mask).sum()) == _gone(removed, everything.numel())
    assert _is_best(everything, mask)


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (3, 5), (4, 8)])
def test_n_of_every_m_stay_and_they_are_the_best(n: int, m: int) -> None:
    @given(scores(multiple=m))
    def check(scores: Tensor) -> None:
        mask = keep_n_of_m(scores, n, m).reshape(-1, m)
        assert (mask.sum(dim=1) == n).all()
        assert _is_best(scores.reshape(-1, m), mask)

    check()


def test_of_equal_scores_the_first_stay() -> None:
    equal = torch.ones(2, 4)
    assert keep_share(equal, 0.75).tolist() == [[True, True, False, False], [False] * 4]
    assert keep_share_of_rows(equal, 0.5).tolist() == [[True, True, False, False]] * 2
    assert keep_n_of_m(equal, 1, 2).tolist() == [[True, False, True, False]] * 2


def test_what_is_masked_already_never_stays() -> None:
    gone = -torch.inf
    scores = torch.tensor([[1.0, gone, gone, gone], [4.0, 3.0, 2.0, gone]])
    expected = [[True, False, False, False], [True, True, True, False]]
    assert keep_share(scores, 0.25).tolist() == expected
    assert keep_share_of_rows(scores, 0.0).tolist() == expected
    expected[1][2] = False
    assert keep_n_of_m(scores, 2, 4).tolist() == expected


def test_columns_that_make_no_whole_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2:4 needs .* a multiple of 4, got \[2, 6\]"):
        keep_n_of_m(torch.ones(2, 6), 2, 4)
