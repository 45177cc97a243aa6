"""The importance of attention heads, as records and as a table."""

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
    """The importance of one head of one layer."""

    layer: str
    head: int = Field(ge=0)
    importance: float = Field(ge=0)
    """Relative to the mean over the heads of its layer, which is 1."""
    rank: int = Field(ge=1)
    """Rank in the network, 1 for the least important head."""


def rank_heads(
    network: nn.Module,
    split: Split,
    criterion: Criterion,
    progress: Progress,
    *,
    seed: int = 0,
) -> list[HeadImportance]:
    """Return the heads of the network, the least important first.

    The criterion `taylor` is the measure of Michel, Levy and Neubig (2019, arXiv:1905.10650,
    section 4.1), the gradient of a gate on each head, but squared over small batches. As in the
    paper, the scores of each layer are normalized, here by their mean, to make layers comparable.
    Raises `ValueError` if the network has no attention in the sense of
    `variants.compression.pruning.attention`.
    """
    groups = [group_heads(name, module) for name, module in find_attentions(network).items()]
    if not groups:
        raise ValueError(
            "the network has no attention heads: no module has query, key, value and output, each "
            "an nn.Linear, and head_dim"
        )
    scores = score(network, groups, split, criterion, seed, progress)
    pairs = [(value, name, head) for name in scores for head, value in enumerate(scores[name])]
    ordered = sorted(pairs, key=lambda pair: pair[0])
    return [
        HeadImportance(layer=name, head=head, importance=float(value), rank=rank)
        for rank, (value, name, head) in enumerate(ordered, start=1)
    ]


def table(rows: Sequence[HeadImportance], criterion: Criterion) -> Table:
    """Return a table with a row for each layer: its heads, with importance and rank.

    The heads are in the order of `rows`, as many side by side as the terminal has room for.
    """
    rendered = Table(
        title=f"Importance of attention heads by {criterion}",
        caption="Relative to the mean of the layer; rank in brackets, 1 for the least important.",
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
    """Return a sort key that puts `layers.10` after `layers.9`."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]
