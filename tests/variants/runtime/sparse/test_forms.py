from __future__ import annotations

import pytest
import torch
from torch import Tensor

from variants.runtime.sparse.forms import SparseKind, dense_reason, sparse_kind


def _weight(zeros: int, columns: int = 20) -> Tensor:
    """Return a weight `[1, columns]` whose first weights are zero."""
    weight = torch.ones(1, columns)
    weight[:, :zeros] = 0
    return weight


@pytest.mark.parametrize(
    ("weight", "kind"),
    [
        (_weight(14), "linear-sparse"),
        (_weight(13), None),
        (_weight(65_533, 65_536), "linear-sparse"),
        (_weight(65_534, 65_537), None),
        (torch.tensor([[0.0, 1, 1, 0, 0, 0, 1, 1]]), "linear-2:4"),
        (torch.zeros(1, 65_540), "linear-2:4"),
        (torch.eye(20), "linear-sparse"),
    ],
    ids=[
        "70%",
        "65%",
        "65,536 inputs",
        "65,537 inputs",
        "2:4",
        "2:4 with 65,540 inputs",
        "2:4 with 95%",
    ],
)
def test_the_form_depends_on_pattern_zeros_and_inputs(
    weight: Tensor, kind: SparseKind | None
) -> None:
    assert sparse_kind(weight) == kind


def test_the_reason_for_a_dense_layer_states_the_rule() -> None:
    assert dense_reason(_weight(13)) == "65% zeros are fewer than 70% and not 2:4"
    assert dense_reason(_weight(65_534, 65_537)) == "65,537 inputs are more than 65,536"
    assert "the recipe did not mask it" in dense_reason(_weight(14))
