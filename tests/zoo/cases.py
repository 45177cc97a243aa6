"""The techniques that the zoo tries, and what is right for each.

Every judge computes the right answers from the original network with code of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from tests.zoo.comparison import Errors, Serve, Wrong, require_equal, require_near
from tests.zoo.pruned import network_without_readers
from variants.catalog.recipe import Recipe, Step
from variants.model.dataset import Axes, Samples
from variants.model.state import CompressionState
from variants.runtime.low_rank import LowRank


@dataclass(frozen=True, eq=False)
class Served:
    """A variant as it is served, with all that is needed to judge it."""

    serve: Serve
    state: CompressionState
    """The state after the last step."""
    dense: nn.Module
    """The original network."""
    known: Samples
    """Samples that techniques may have seen."""
    new: Samples
    axes: Axes
    jumps: bool

    def require_equal(self, reference: nn.Module, *, factor: float = 1.0) -> None:
        """Raise `Wrong` unless the variant answers as the reference does."""
        require_equal(self.serve, reference, self.new, self.axes, factor=factor)

    def require_near(self, reference: nn.Module, errors: Errors) -> None:
        """Raise `Wrong` unless only rounding separates the variant from the reference."""
        require_near(self.serve, reference, self.known, errors, jumps=self.jumps)


Judge: TypeAlias = Callable[[Served], None]
"""Raises `Wrong` if the variant does not answer as it should."""


@dataclass(frozen=True)
class Case:
    """A recipe, and what is right for it."""

    recipe: Recipe
    judge: Judge


def _equal_to_dense(served: Served) -> None:
    served.require_equal(served.dense)


def _equal_after_smoothing(served: Served) -> None:
    """Scales of the paper are no powers of two, so each changes a product by a rounding."""
    served.require_equal(served.dense, factor=5)


def _equal_to_result(served: Served) -> None:
    """Training may end anywhere, but it must not separate tied weights, and must change some."""
    served.require_equal(served.state.network)
    _require_same_ties(served.dense, served.state.network)
    before, after = served.dense.state_dict(), served.state.network.state_dict()
    if all(torch.equal(before[name], tensor) for name, tensor in after.items()):
        raise Wrong("training changed nothing")
    _require_masked(served.state)


def _equal_to_masked(served: Served) -> None:
    reference = _masked(served)
    served.require_equal(reference)


def _equal_to_pruned(served: Served) -> None:
    smaller = sum(parameter.numel() for parameter in served.state.network.parameters())
    if smaller >= sum(parameter.numel() for parameter in served.dense.parameters()):
        raise Wrong("nothing was removed")
    served.require_equal(served.state.network)
    reference = network_without_readers(served.dense, served.state.network)
    if reference is not None:
        served.require_equal(reference)


def _equal_to_truncated(served: Served) -> None:
    """Each factorized layer has the best approximation of its rank, by numpy's decomposition."""
    reference = copy.deepcopy(served.dense)
    for name, module in served.state.network.named_modules(remove_duplicate=False):
        if isinstance(module, LowRank):
            weight = reference.get_parameter(f"{name}.weight")
            left, values, right = np.linalg.svd(weight.detach().double().numpy())
            rank = module.first.out_features
            truncated = left[:, :rank] * values[:rank] @ right[:rank]
            with torch.no_grad():
                weight.copy_(torch.from_numpy(truncated))
    served.require_equal(reference, factor=5)


def _near(errors: Errors) -> Judge:
    def judge(served: Served) -> None:
        served.require_near(served.dense, errors)

    return judge


def _near_to_result(errors: Errors) -> Judge:
    """Return the judge of a graph that is rebuilt after training."""

    def judge(served: Served) -> None:
        served.require_near(served.state.network, errors)
        _require_same_ties(served.dense, served.state.network)

    return judge


def _near_to_masked(errors: Errors) -> Judge:
    def judge(served: Served) -> None:
        served.require_near(_masked(served), errors)

    return judge


def _masked(served: Served) -> nn.Module:
    """Return the original network without the weights that the state masks.

    Raises `Wrong` if a larger weight is masked than one that is kept in the same place.
    """
    reference = copy.deepcopy(served.dense)
    parameters = dict(reference.named_parameters(remove_duplicate=False))
    if not served.state.masks:
        raise Wrong("nothing was masked")
    with torch.no_grad():
        for name, mask in served.state.masks.items():
            parameters[name].mul_(mask)
    return reference


def _require_masked(state: CompressionState) -> None:
    parameters = dict(state.network.named_parameters(remove_duplicate=False))
    for name, mask in state.masks.items():
        if parameters[name][~mask].any():
            raise Wrong(f"masked weights of {name} are not zero")


def _require_same_ties(before: nn.Module, after: nn.Module) -> None:
    def ties(network: nn.Module) -> set[tuple[str, str]]:
        named = list(network.named_parameters(remove_duplicate=False))
        return {(a, b) for (a, first), (b, other) in combinations(named, 2) if first is other}

    if ties(before) != ties(after):
        raise Wrong(f"tied weights were {ties(before)}, and are {ties(after)}")


def _masks_of_smallest(share: float) -> Judge:
    """Return the judge of masks by magnitude: `share` of each layer, the smallest weights."""

    def judge(served: Served) -> None:
        original = dict(served.dense.named_parameters(remove_duplicate=False))
        for name, mask in served.state.masks.items():
            sizes = original[name].detach().abs()
            if abs(int((~mask).sum()) - share * mask.numel()) > 1:
                raise Wrong(f"{int((~mask).sum())} of {mask.numel()} weights of {name} are masked")
            if sizes[~mask].max() > sizes[mask].min():
                raise Wrong(f"a larger weight of {name} is masked than one that is kept")
        _equal_to_masked(served)

    return judge


def _masks_of_two_in_four(judge: Judge) -> Judge:
    """Return a judge that also requires the two largest of four neighbours to be kept."""

    def with_pattern(served: Served) -> None:
        original = dict(served.dense.named_parameters(remove_duplicate=False))
        for name, mask in served.state.masks.items():
            groups = _groups_of_four(mask)
            sizes = _groups_of_four(original[name].detach().abs())
            if not (groups.sum(1) == 2).all():
                raise Wrong(f"{name} does not keep two of four weights")
            smallest_kept = sizes.masked_fill(~groups, torch.inf).amin(1)
            if (sizes.masked_fill(groups, 0).amax(1) > smallest_kept).any():
                raise Wrong(f"a larger weight of {name} is masked than one that is kept")
        judge(served)

    return with_pattern


def _groups_of_four(values: Tensor) -> Tensor:
    """Return the groups of four neighbouring inputs, `[groups, 4]`."""
    return (values if values.ndim == 2 else values.movedim(1, -1)).reshape(-1, 4)


def _relative(share: float, absolute: float = 0.0) -> Errors:
    """Return errors of floating-point weights: a share of each number, at least `absolute`."""
    return Errors(lambda weight: (weight.abs() * share).clamp(min=absolute))


def _grid_steps(weight: Tensor) -> Tensor:
    """Return half a step of a grid of 7 bits over each row or column of a weight."""
    sizes = weight.abs()
    if weight.ndim < 2:
        return torch.zeros_like(weight)
    rows = sizes.flatten(1).amax(1).reshape(-1, *[1] * (weight.ndim - 1))
    columns = sizes.amax(0, keepdim=True) if weight.ndim == 2 else rows
    return torch.maximum(rows, columns).expand(weight.shape) / 63 / 2


def _cluster_widths(weight: Tensor) -> Tensor:
    """Return the largest distance of a weight from its cluster's mean, for 64 clusters."""
    if weight.ndim < 2 or weight.numel() <= 64:
        return torch.zeros_like(weight)
    return torch.full_like(weight, 0.08 * float(weight.float().std()))


INT8: Final = Errors(_grid_steps, activations=1 / 255)
INT8_PACKED: Final = Errors(_grid_steps, activations=1 / 127)

_TRAIN: Final[Mapping[str, Any]] = {"epochs": 1, "batch_size": 16}


def _case(judge: Judge, *steps: tuple[str, Mapping[str, Any]]) -> Case:
    recipe = tuple(Step(technique=name, parameters=dict(values)) for name, values in steps)
    return Case(recipe, judge)


CASES: Final[Mapping[str, Case]] = {
    "dense": _case(_equal_to_dense),
    "fp16": _case(_near(_relative(2**-11, 2**-25)), ("fp16", {})),
    "bf16": _case(_near(_relative(2**-8)), ("bf16", {})),
    "weight-sharing": _case(_near(Errors(_cluster_widths)), ("weight-sharing", {"values": 64})),
    "int8 static": _case(_near(INT8), ("int8", {})),
    "int8 dynamic": _case(_near(INT8), ("int8", {"mode": "dynamic"})),
    "int8, recover": _case(
        _near_to_result(INT8), ("int8", {}), ("recover", {**_TRAIN, "learning_rate": 1e-4})
    ),
    "smoothquant": _case(_equal_after_smoothing, ("smoothquant", {})),
    "smoothquant, int8": _case(_near(INT8), ("smoothquant", {}), ("int8", {})),
    "activation-pruning": _case(
        _equal_to_pruned, ("activation-pruning", {"share": 0.2, "fold_means": False})
    ),
    "structured": _case(_equal_to_pruned, ("structured", {"share": 0.15})),
    "low-rank": _case(_equal_to_truncated, ("low-rank", {"break_even": 0.7})),
    "unstructured packed": _case(
        _masks_of_smallest(0.75), ("unstructured", {"share": 0.75, "packing": "always"})
    ),
    "unstructured wanda": _case(
        _equal_to_masked,
        ("unstructured", {"share": 0.5, "criterion": "wanda", "packing": "always"}),
    ),
    "unstructured taylor": _case(
        _equal_to_masked,
        ("unstructured", {"share": 0.5, "criterion": "taylor", "packing": "always"}),
    ),
    "unstructured sparsegpt": _case(
        _equal_to_result,
        ("unstructured", {"share": 0.5, "criterion": "sparsegpt", "packing": "always"}),
    ),
    "2:4": _case(
        _masks_of_two_in_four(_equal_to_masked), ("sparse-n:m", {"min_rows": 4, "packing": "never"})
    ),
    "2:4 packed int8": _case(
        _masks_of_two_in_four(_near_to_masked(INT8_PACKED)),
        ("sparse-n:m", {"min_rows": 4, "packing": "always"}),
        ("int8", {"mode": "dynamic"}),
    ),
    "recover": _case(_equal_to_result, ("recover", {**_TRAIN, "distill": 0.5})),
    "lottery-ticket": _case(_equal_to_result, ("lottery-ticket", {**_TRAIN, "rounds": 1})),
}
"""All cases by name."""
