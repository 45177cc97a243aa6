"""How much each attention head matters, as a table for people."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field
from rich.columns import Columns
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from torch import nn

from variants.catalog.record import Record
from variants.compression.pruning.attention import find_attentions, group_heads
from variants.compression.pruning.score import Criterion, score
from variants.model.dataset import Split


class HeadImportance(Record):
    """One head of one layer."""

    layer: str
    head: int = Field(ge=0)
    importance: float = Field(ge=0)
    """Relative to the mean of its layer's heads, which is 1."""
    rank: int = Field(ge=1)
    """1 is the least important head of the network."""


def rank_heads(
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
    attention of the form that `variants.compression.pruning.attention` knows.
    """
    groups = [group_heads(name, module) for name, module in find_attentions(network).items()]
    if not groups:
        raise ValueError(
            "there are no attention heads: no module has query, key, value and output, each an "
            "nn.Linear, and head_dim"
        )
    found = score(network, groups, split, criterion, seed, progress)
    pairs = [(worth, name, head) for name in found for head, worth in enumerate(found[name])]
    ordered = sorted(pairs, key=lambda pair: pair[0])
    return [
        HeadImportance(layer=name, head=head, importance=float(worth), rank=rank)
        for rank, (worth, name, head) in enumerate(ordered, start=1)
    ]


def table(rows: Sequence[HeadImportance], criterion: Criterion) -> Table:
    """One row for each layer: its heads in the order of `rows`, as many abreast as there is room.

    Each with its importance, and its rank in the network.
    """
    rendered = Table(
        title=f"Importance of attention heads by {criterion}",
        caption="Relative to the mean of the layer; in brackets the rank, 1 the least important.",
    )
    rendered.add_column("layer")
    rendered.add_column("head: importance (rank)")
    for layer in sorted({row.layer for row in rows}, key=_by_number):
        cells = [
            Text(f"{row.head}: {row.importance:.2f} ({row.rank})")
            for row in rows
            if row.layer == layer
        ]
        rendered.add_row(Text(layer), Columns(cells, padding=(0, 2), equal=True, align="right"))
    return rendered


def _by_number(name: str) -> list[tuple[str, int]]:
    """Sort `layers.10` after `layers.9`."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]
