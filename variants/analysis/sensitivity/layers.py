"""How much accuracy each layer holds: one layer at a time loses its smallest weights.

    network, validation split ─▶ for each layer, at each sparsity: mask ─▶ answers ─▶ Sensitivity

Nothing is trained, so this is what a layer costs before recovery: it ranks layers and does not
foretell a recipe's accuracy. Paired with dense on the same samples, with 95 % intervals.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from pydantic import Field
from rich.progress import Progress
from torch import Tensor, nn

from variants.build.check import load_checked_project
from variants.catalog.catalog import Interval
from variants.catalog.record import Record
from variants.measurement.evaluation import accuracy, accuracy_difference
from variants.model.dataset import Split
from variants.model.training import predict

SPARSITIES: Final = (0.3, 0.5, 0.7, 0.9, 0.95)
"""What is tried of each layer, beside 0: that is the network as it is."""


class SensitivityPoint(Record):
    """What it costs that a share of one layer's weights is zero."""

    sparsity: float = Field(ge=0, le=1)
    difference: Interval
    """Accuracy minus that of the whole network, as a share, paired by sample."""


class Curve(Record):
    """One layer's points; sparsities ascend strictly, and the first is 0."""

    layer: str
    kind: str
    weights: int = Field(ge=1)
    points: tuple[SensitivityPoint, ...] = Field(min_length=1)


class Sensitivity(Record):
    """Every `nn.Linear` and `nn.Conv2d` of a network, in the order of its modules."""

    model: str
    samples: int = Field(ge=1)
    accuracy: Interval
    curves: tuple[Curve, ...]


def run_sensitivity(
    project_file: Path, progress: Progress, *, sparsities: Sequence[float] = SPARSITIES
) -> Sensitivity:
    """Measure a project's network on its validation split; the test split is not touched.

    Raises `ValueError` that says what is wrong with the project.
    """
    checked = load_checked_project(project_file)
    return measure_sensitivity(
        checked.network,
        checked.datasets.validation,
        progress,
        name=checked.project.name,
        sparsities=sparsities,
    )


def measure_sensitivity(
    network: nn.Module,
    split: Split,
    progress: Progress,
    *,
    name: str = "model",
    sparsities: Sequence[float] = SPARSITIES,
) -> Sensitivity:
    """Try each layer at each of the sparsities, all others as they are; the network stays so too.

    Takes one pass over the split for each layer and sparsity. Raises `ValueError` if the network
    has no such layer, or if the sparsities do not ascend strictly between 0 and 1.
    """
    tried = tuple(sparsities)
    if list(tried) != sorted(set(tried)) or not all(0 < sparsity <= 1 for sparsity in tried):
        raise ValueError(f"sparsities must ascend strictly, above 0 and up to 1; got {list(tried)}")
    network = copy.deepcopy(network).eval()
    layers = prunable(network)
    if not layers:
        raise ValueError("the network has no nn.Linear and no nn.Conv2d")

    dense = predict(network, split.samples).numpy()
    nothing = SensitivityPoint(sparsity=0.0, difference=Interval(value=0.0, low=0.0, high=0.0))
    task = progress.add_task("sensitivity", total=len(layers) * len(tried))
    curves = []
    for layer, module in layers.items():
        points = [nothing]
        for sparsity in tried:
            with _masked(module.weight, sparsity):
                answers = predict(network, split.samples).numpy()
            difference = accuracy_difference(answers, dense, split.labels)
            points.append(SensitivityPoint(sparsity=sparsity, difference=difference))
            progress.advance(task)
        kind = "Conv2d" if isinstance(module, nn.Conv2d) else "Linear"
        curves.append(
            Curve(layer=layer, kind=kind, weights=module.weight.numel(), points=tuple(points))
        )
    return Sensitivity(
        model=name,
        samples=len(split),
        accuracy=accuracy(dense, split.labels),
        curves=tuple(curves),
    )


def prunable(network: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the layers whose weights can be masked, by name, in the order of the modules."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }


@contextmanager
def _masked(weight: Tensor, sparsity: float) -> Iterator[None]:
    """Set the smallest weights to zero for a while: `round(sparsity * count)` of them."""
    whole = weight.detach().clone()
    smallest = whole.abs().flatten().argsort(stable=True)[: round(sparsity * whole.numel())]
    is_masked = torch.zeros(whole.numel(), dtype=torch.bool, device=whole.device)
    is_masked[smallest] = True
    with torch.no_grad():
        weight.masked_fill_(is_masked.reshape(whole.shape), 0)  # a view fails for channels_last
        try:
            yield
        finally:
            weight.copy_(whole)
