"""How much each attention head matters, as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import Progress
from rich.table import Table
from torch import nn

from variants.dataset import Split
from variants.structure.attention import attentions, heads
from variants.structure.score import Criterion, score


@dataclass(frozen=True)
class HeadImportance:
    """One head of one layer."""

    layer: str
    head: int
    importance: float
    """Relative to the mean of its layer's heads, which is 1."""
    rank: int
    """1 is the least important head of the network."""


def head_importance(
    network: nn.Module,
    split: Split,
    criterion: Criterion,
    progress: Progress,
    *,
    seed: int = 0,
) -> list[HeadImportance]:
    """Return every head of the network, the least important first.

    With `taylor` it is Michel, Levy and Neubig's measure (2019, arXiv:1905.10650, section 4.1),
    squared over small batches: the gradient of a gate on each head. As there, each layer's are
    normalised (by their mean), to compare layers. Raises `ValueError` if the network has no
    attention of the form that `variants.structure.attention` knows.
    """
    groups = [heads(name, module) for name, module in attentions(network).items()]
    if not groups:
        raise ValueError(
            "there are no attention heads: no module has query, key, value and output, each an "
            "nn.Linear, and head_dim"
        )
    found = score(network, groups, split, criterion, seed, progress)
    pairs = [(worth, name, head) for name in found for head, worth in enumerate(found[name])]
    ordered = sorted(pairs, key=lambda pair: pair[0])
    return [
        HeadImportance(name, head, float(worth), rank)
        for rank, (worth, name, head) in enumerate(ordered, start=1)
    ]


def table(rows: Sequence[HeadImportance], criterion: Criterion) -> Table:
    """One row for each layer, one column for each head: importance, and rank from the least."""
    by_layer: dict[str, dict[int, HeadImportance]] = {}
    for row in rows:
        by_layer.setdefault(row.layer, {})[row.head] = row
    rendered = Table(
        title=f"Importance of attention heads by {criterion}",
        caption="Relative to the mean of the layer; in brackets the rank, 1 the least important.",
    )
    rendered.add_column("layer")
    width = max((row.head for row in rows), default=-1) + 1
    for head in range(width):
        rendered.add_column(f"head {head}", justify="right")
    for layer in sorted(by_layer):
        cells = (by_layer[layer].get(head) for head in range(width))
        rendered.add_row(
            layer, *(f"{cell.importance:.2f} ({cell.rank})" if cell else "" for cell in cells)
        )
    return rendered
