"""Sensitivity of each layer: the loss of accuracy when it alone loses its smallest weights.

    network, validation split ─▶ for each layer and sparsity: mask, predict ─▶ Sensitivity

Nothing is trained, so these are losses before recovery. They rank layers and do not predict the
accuracy of a recipe. They are paired with dense on the same samples, with 95 % intervals.
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
from variants.build.coverage import find_unmaskable
from variants.catalog.catalog import Interval
from variants.catalog.coverage import Untouched
from variants.catalog.record import Record
from variants.measurement.evaluation import accuracy, accuracy_difference
from variants.model.dataset import Split
from variants.model.training import predict

SPARSITIES: Final = (0.3, 0.5, 0.7, 0.9, 0.95)
"""Sparsities measured for each layer, beside 0, the unchanged network."""


class SensitivityPoint(Record):
    """The accuracy when a share of one layer's weights is zero."""

    sparsity: float = Field(ge=0, le=1)
    difference: Interval
    """Accuracy minus that of the unchanged network, as a share, paired by sample."""


class LayerSensitivity(Record):
    """The measured points of one layer. Sparsities ascend strictly from 0."""

    layer: str
    kind: str
    weights: int = Field(ge=1)
    points: tuple[SensitivityPoint, ...] = Field(min_length=1)


class Sensitivity(Record):
    """The sensitivity of every `nn.Linear` and `nn.Conv2d`, in the order of the modules."""

    model: str
    samples: int = Field(ge=1)
    accuracy: Interval
    curves: tuple[LayerSensitivity, ...]
    weights: int = Field(default=0, ge=0)
    """Number of the network's parameters."""
    uncovered: tuple[Untouched, ...] = ()
    """Matrices that are not measured, such as those of recurrent layers."""


def run_sensitivity(
    project_file: Path, progress: Progress, *, sparsities: Sequence[float] = SPARSITIES
) -> Sensitivity:
    """Measure a project's network on its validation split. The test split is not used.

    Raises `ValueError` if the project cannot be built.
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
    """Measure each layer at each sparsity, with all other layers unchanged.

    The network itself is not changed. The cost is one pass over the split for each layer and
    sparsity. Raises `ValueError` if the network has no `nn.Linear` or `nn.Conv2d`, or if the
    sparsities do not ascend strictly within 0 to 1.
    """
    if list(sparsities) != sorted(set(sparsities)) or not all(0 < s <= 1 for s in sparsities):
        raise ValueError(
            f"sparsities must ascend strictly, above 0 and up to 1, got {list(sparsities)}"
        )
    network = copy.deepcopy(network).eval()
    layers = prunable_layers(network)
    if not layers:
        raise ValueError("the network has no nn.Linear and no nn.Conv2d")

    dense = predict(network, split.samples).numpy()
    unchanged = SensitivityPoint(sparsity=0.0, difference=Interval(value=0.0, low=0.0, high=0.0))
    task = progress.add_task("sensitivity", total=len(layers) * len(sparsities))
    curves = []
    for layer, module in layers.items():
        points = [unchanged]
        for sparsity in sparsities:
            with _masked(module.weight, sparsity):
                predictions = predict(network, split.samples).numpy()
            difference = accuracy_difference(predictions, dense, split.labels)
            points.append(SensitivityPoint(sparsity=sparsity, difference=difference))
            progress.advance(task)
        kind = "Conv2d" if isinstance(module, nn.Conv2d) else "Linear"
        curves.append(
            LayerSensitivity(
                layer=layer, kind=kind, weights=module.weight.numel(), points=tuple(points)
            )
        )
    return Sensitivity(
        model=name,
        samples=len(split),
        accuracy=accuracy(dense, split.labels),
        curves=tuple(curves),
        weights=sum(parameter.numel() for parameter in network.parameters()),
        uncovered=find_unmaskable(network),
    )


def prunable_layers(network: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the layers that can be masked, by name, in the order of the modules."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }


@contextmanager
def _masked(weight: Tensor, sparsity: float) -> Iterator[None]:
    """Set the `round(sparsity * count)` smallest weights to zero within the context."""
    original = weight.detach().clone()
    smallest = original.abs().flatten().argsort(stable=True)[: round(sparsity * original.numel())]
    is_masked = torch.zeros(original.numel(), dtype=torch.bool, device=original.device)
    is_masked[smallest] = True
    with torch.no_grad():
        weight.masked_fill_(is_masked.reshape(original.shape), 0)  # a view fails for channels_last
        try:
            yield
        finally:
            weight.copy_(original)
