from __future__ import annotations

import pytest
import torch

from variants.compression.sparsity.order import find_order, retained


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (1, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_an_order_retains_more_and_holds_every_column_once(n: int, m: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(20, m * 6, generator=generator).abs()
    order = find_order(scores, n, m, seed)
    assert order.sort().values.tolist() == list(range(m * 6))
    assert retained(scores[:, order], n, m) > 1.02 * retained(scores, n, m)


def test_columns_with_high_scores_are_distributed_over_groups() -> None:
    strong = torch.tensor([5.0, 6.0, 7.0, 8.0, 0.1, 0.2, 0.3, 0.4]).expand(3, 8)
    assert retained(strong, 2, 4) == pytest.approx(3 * (7 + 8 + 0.3 + 0.4))
    order = find_order(strong, 2, 4, seed=0)
    assert retained(strong[:, order], 2, 4) == pytest.approx(3 * (5 + 6 + 7 + 8))


def test_the_gain_of_every_swap_is_exact() -> None:
    from variants.compression.sparsity.order import _gains

    scores = torch.rand(7, 10, generator=torch.Generator().manual_seed(0))
    gains = _gains(scores, torch.arange(10).reshape(2, 1, 5), 2)
    for i in range(5):
        for j in range(5):
            order = torch.arange(10)
            order[[i, 5 + j]] = order[[5 + j, i]]
            gain = retained(scores[:, order], 2, 5) - retained(scores, 2, 5)
            assert float(gains[0, i, j]) == pytest.approx(gain, abs=1e-5)


def test_an_optimal_order_is_not_changed() -> None:
    for scores in (torch.ones(4, 12), torch.zeros(4, 12), torch.rand(4, 4)):
        assert find_order(scores, 2, 4, seed=0).tolist() == list(range(scores.shape[1]))


def test_the_order_depends_on_the_seed_only() -> None:
    scores = torch.rand(6, 32, generator=torch.Generator().manual_seed(0))
    first, again, other = (find_order(scores, 2, 4, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other
