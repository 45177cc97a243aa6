from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.small import quiet
from tests.variants import tiny, tiny_conv
from variants.compression.sparsity.layers import find_layers, to_matrix
from variants.compression.sparsity.sparsegpt import BLOCK, Keep, reconstruct, sweep
from variants.compression.sparsity.statistics import measure_hessian
from variants.model.dataset import Samples
from variants.model.forward import tensors
from variants.runtime.patterns import keep_n_of_m, keep_share, keep_share_of_rows

TWO_OF_FOUR: Keep = partial(keep_n_of_m, n=2, m=4)


def _share(removed: float) -> Keep:
    return partial(keep_share, removed=removed)


def _problem(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return a weight, inputs with few common factors and many scales, and their Hessian; FP64."""
    generator = torch.Generator().manual_seed(seed)
    random = partial(torch.randn, generator=generator, dtype=torch.float64)
    sizes = random(columns).exp()
    factors = random(4 * columns, columns // 4) @ random(columns // 4, columns)
    inputs = (factors / (columns // 4) ** 0.5 + 0.3 * random(4 * columns, columns)) * sizes
    return random(rows, columns), inputs, inputs.T @ inputs / len(inputs)


def _error(weight: Tensor, updated: Tensor, inputs: Tensor) -> float:
    """Return the relative squared error of the outputs of the layer."""
    return float(
        (inputs @ (weight - updated).T).square().sum() / (inputs @ weight.T).square().sum()
    )


@pytest.mark.parametrize("removed", [0.5, 0.7, 0.9])
def test_errors_are_ordered_as_in_the_papers_for_a_share(removed: float) -> None:
    weight, inputs, hessian = _problem(48, 160)
    magnitude = weight * keep_share(weight.abs(), removed)
    wanda = weight * keep_share_of_rows(weight.abs() * inputs.norm(dim=0), removed)
    sparsegpt, mask = sweep(weight, hessian, _share(removed), BLOCK)
    errors = [_error(weight, each, inputs) for each in (sparsegpt, wanda, magnitude)]
    assert errors == sorted(errors)
    assert errors[0] < 0.9 * errors[1] < 0.9 * errors[2]
    assert int((~mask).sum()) == round(removed * 48 * 128) + round(removed * 48 * 32)


def test_errors_are_ordered_as_in_the_papers_for_2_of_4() -> None:
    weight, inputs, hessian = _problem(48, 160)
    magnitude = weight * TWO_OF_FOUR(weight.abs())
    wanda = weight * TWO_OF_FOUR(weight.abs() * inputs.norm(dim=0))
    sparsegpt, _ = sweep(weight, hessian, TWO_OF_FOUR, 4)
    errors = [_error(weight, each, inputs) for each in (sparsegpt, wanda, magnitude)]
    assert errors == sorted(errors)
    assert errors[0] < 0.6 * errors[1] < 0.6 * errors[2]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 5), (4, 8)])
def test_n_of_every_m_weights_are_kept_and_the_others_are_zero(n: int, m: int) -> None:
    weight, _, hessian = _problem(6, m * 40)
    updated, mask = sweep(weight, hessian, partial(keep_n_of_m, n=n, m=m), m)
    assert (mask.reshape(6, -1, m).sum(dim=2) == n).all()
    assert torch.equal(updated != 0, mask)


def _least_squares(weight: Tensor, inputs: Tensor, free: list[int], fixed: list[int]) -> Tensor:
    """Return the optimal row if `free` weights may change, `fixed` stay and the rest are zero."""
    wanted = inputs @ weight - inputs[:, fixed] @ weight[fixed]
    best = torch.zeros_like(weight)
    best[fixed] = weight[fixed]
    best[free] = torch.linalg.lstsq(inputs[:, free], wanted).solution
    return best


@pytest.mark.parametrize("column", range(6))
def test_the_weights_right_of_a_removed_one_are_the_least_squares_solution(column: int) -> None:
    weight, inputs, hessian = _problem(1, 6)

    def keep(scores: Tensor) -> Tensor:
        return torch.arange(6)[None] != column

    updated, _ = sweep(weight, hessian, keep, 6, damping=0.0)
    right, left = list(range(column + 1, 6)), list(range(column))
    expected = _least_squares(weight[0], inputs, right, left)
    torch.testing.assert_close(updated[0], expected, rtol=1e-6, atol=1e-9)


def test_after_removing_the_first_weights_the_rest_is_the_least_squares_solution() -> None:
    weight, inputs, hessian = _problem(1, 8)

    def keep(scores: Tensor) -> Tensor:
        return torch.arange(8)[None] > 2

    updated, _ = sweep(weight, hessian, keep, 8, damping=0.0)
    expected = _least_squares(weight[0], inputs, [3, 4, 5, 6, 7], [])
    torch.testing.assert_close(updated[0], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_removed_weight_is_the_one_that_an_exhaustive_search_finds(seed: int) -> None:
    weight, inputs, hessian = _problem(1, 6, seed)
    columns = list(range(6))
    without = [_least_squares(weight[0], inputs, columns[c + 1 :], columns[:c]) for c in columns]
    errors = [_error(weight, best[None], inputs) for best in without]
    _, mask = sweep(weight, hessian, _share(1 / 6), 6, damping=0.0)
    assert (~mask[0]).nonzero().flatten().tolist() == [int(np.argmin(errors))]


@pytest.mark.parametrize("columns", [100, BLOCK, 3 * BLOCK + 40])
def test_gathering_updates_in_blocks_does_not_change_the_result(columns: int) -> None:
    """With groups of 4, a block gathers 32 of them; a group of all columns is one block."""
    weight, _, hessian = _problem(3, columns)
    mask = torch.rand(3, columns, generator=torch.Generator().manual_seed(1)) < 0.6

    def whole(scores: Tensor) -> Tensor:
        return mask

    parts = iter(torch.split(mask, 4, dim=1))
    small, _ = sweep(weight, hessian, lambda scores: next(parts), 4)
    large, _ = sweep(weight, hessian, whole, columns)
    torch.testing.assert_close(small, large, rtol=1e-8, atol=1e-10)


def test_masked_weights_stay_zero_and_count_towards_the_share() -> None:
    weight, _, hessian = _problem(8, 64)
    allowed = torch.rand(8, 64, generator=torch.Generator().manual_seed(1)) < 0.7
    # After the first 16 columns, updates have made masked weights of later columns nonzero.
    updated, mask = sweep(weight * allowed, hessian, _share(0.5), 16, allowed)
    assert int((~mask).sum()) == 8 * 64 / 2
    assert not (mask & ~allowed).any()
    assert torch.equal(updated != 0, mask)


def test_weights_of_inputs_that_are_always_zero_are_removed_first() -> None:
    weight, inputs, _ = _problem(4, 16)
    inputs[:, [3, 9]] = 0
    updated, mask = sweep(weight, inputs.T @ inputs, _share(2 / 16), 16)
    assert (~mask).any(dim=0).nonzero().flatten().tolist() == [3, 9]
    torch.testing.assert_close(updated[mask], weight[mask])
    nothing, _ = sweep(weight, torch.zeros(16, 16, dtype=torch.float64), _share(0.5), 16)
    assert nothing.isfinite().all()


SPLIT = tiny.split(600)


def _answers(network: nn.Module, samples: Samples) -> Tensor:
    with torch.inference_mode():
        answers: Tensor = network(*tensors(samples))
    return answers


def test_a_layer_is_pruned_on_the_outputs_of_the_pruned_layers_before_it() -> None:
    network = tiny.network()
    layers, _ = find_layers(network)
    kept = reconstruct(
        network, layers, {}, dict.fromkeys(layers, _share(0.5)), BLOCK, SPLIT.samples, quiet()
    )
    assert list(kept) == ["0", "2", "4"]

    expected = tiny.network()
    for name, layer in find_layers(expected)[0].items():
        hessian = measure_hessian(expected, layer, 1, SPLIT.samples, quiet())[0]
        weight, mask = sweep(layer.weight.detach(), hessian, _share(0.5), BLOCK)
        with torch.no_grad():
            layer.weight.copy_(weight)
        assert torch.equal(kept[name], mask)
        assert torch.equal(layers[name].weight, weight)


def test_updated_weights_change_outputs_less_than_masking_alone() -> None:
    dense_network, network = tiny.network(), tiny.network()
    layers, _ = find_layers(network)
    kept = reconstruct(
        network, layers, {}, dict.fromkeys(layers, _share(0.5)), BLOCK, SPLIT.samples, quiet()
    )
    cut = tiny.network()
    with torch.no_grad():
        for name, layer in find_layers(cut)[0].items():
            layer.weight.mul_(kept[name])
    held_out = tiny.split(300, seed=7).samples
    dense = _answers(dense_network, held_out)
    repaired, merely_cut = (
        float((_answers(each, held_out) - dense).square().mean()) for each in (network, cut)
    )
    assert repaired < 0.7 * merely_cut


def test_each_group_of_a_convolution_is_swept_with_its_own_inputs() -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 1))
    images = {"input": torch.randn(30, 8, 6, 6, generator=generator).numpy()}
    layers, _ = find_layers(network)
    before = to_matrix(layers["0"].weight.detach()).clone()
    hessians = measure_hessian(network, layers["0"], 1, images, quiet())
    kept = reconstruct(network, layers, {}, dict.fromkeys(layers, TWO_OF_FOUR), 4, images, quiet())
    for group in range(2):
        rows = slice(4 * group, 4 * group + 4)
        weight, mask = sweep(before[rows], hessians[group], TWO_OF_FOUR, 4)
        assert torch.equal(to_matrix(layers["0"].weight)[rows], weight)
        assert torch.equal(kept["0"][rows], mask)
    zeros = to_matrix(layers["2"].weight == 0).reshape(4, -1, 4).sum(dim=2)
    assert (zeros == 2).all()


def test_a_network_with_normalization_and_a_residual_addition_is_swept() -> None:
    network = tiny_conv.network()
    layers, _ = find_layers(network)
    samples = tiny_conv.split(60).samples
    kept = reconstruct(
        network, layers, {}, dict.fromkeys(layers, _share(0.3)), BLOCK, samples, quiet()
    )
    assert list(kept) == ["stem", "widen", "narrow", "head"]
    for name, layer in layers.items():
        assert torch.equal(to_matrix(layer.weight.detach()) != 0, kept[name])
