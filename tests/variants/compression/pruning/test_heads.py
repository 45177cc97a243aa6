from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from tests.small import quiet
from tests.variants import tiny, tiny_attention
from variants.compression.pruning.attention import find_attentions, group_heads
from variants.compression.pruning.graph import find_unit_groups
from variants.compression.pruning.group import remove_units
from variants.compression.pruning.heads import HeadImportance, rank_heads, table
from variants.compression.pruning.score import Criterion
from variants.compression.techniques.structured import Structured
from variants.model.forward import all_scores
from variants.model.state import CompressionState

DIM = tiny_attention.HEAD_DIM
LAYER = "layers.1.attention"


def _with_useless_head() -> Any:
    """A network in which the weights for head 1 of the second attention are close to zero."""
    network: Any = tiny_attention.network()
    with torch.no_grad():
        network.layers[1].attention.output.weight[:, DIM : 2 * DIM] *= 1e-4
    return network


def test_removing_a_head_equals_zeroing_its_columns() -> None:
    network: Any = tiny_attention.network()
    samples = tiny_attention.split(40).samples
    kept = {LAYER: np.array([True, False, True])}
    smaller: Any = remove_units(network, find_unit_groups(network, samples).groups, kept)
    attention = smaller.layers[1].attention
    assert attention.query.weight.shape == attention.value.weight.shape == (2 * DIM, 12)
    assert attention.key.bias.shape == (2 * DIM,)
    assert (attention.output.in_features, attention.output.out_features) == (2 * DIM, 12)
    with torch.no_grad():
        network.layers[1].attention.output.weight[:, DIM : 2 * DIM] = 0
    expected = all_scores(network, samples).numpy()
    np.testing.assert_allclose(all_scores(smaller, samples).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("criterion", ["gradient", "activation", "taylor", "magnitude"])
def test_a_useless_head_ranks_first(criterion: Criterion) -> None:
    network, split = _with_useless_head(), tiny_attention.split(48)
    if criterion == "activation":  # it depends on the values, not on the weights of readers
        with torch.no_grad():
            network.layers[1].attention.value.weight[DIM : 2 * DIM] *= 1e-4
            network.layers[1].attention.value.bias[DIM : 2 * DIM] *= 1e-4
    rows = rank_heads(network, split, criterion, quiet())
    assert [row.rank for row in rows] == [1, 2, 3, 4, 5, 6]
    assert (rows[0].layer, rows[0].head) == (LAYER, 1)
    assert np.mean([row.importance for row in rows]) == pytest.approx(1)
    assert [row.importance for row in rows] == sorted(row.importance for row in rows)
    if criterion != "magnitude":  # most of its weights are in query, key and value
        assert rows[0].importance < 0.01 * rows[1].importance


def test_structured_pruning_removes_the_useless_head_first() -> None:
    original = tiny_attention.state()
    original = CompressionState(_with_useless_head(), original.interface, dense=original.dense)
    pruning = Structured(share=0.01, exclude=("layers.*.inner",), samples=48)
    result = pruning.apply(original, tiny_attention.datasets().training_data, quiet())
    network: Any = result.network
    first, second = (layer.attention for layer in network.layers)
    assert (len(first.query.weight), len(second.query.weight)) == (12, 8)
    before = _with_useless_head().state_dict()[f"{LAYER}.query.weight"]
    assert torch.equal(second.query.weight, before[[*range(DIM), *range(2 * DIM, 3 * DIM)]])


def test_the_table_shows_every_head_with_its_rank() -> None:
    rows = rank_heads(_with_useless_head(), tiny_attention.split(48), "taylor", quiet())
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table(rows, "taylor"))
    text = capture.get()
    assert "Importance of attention heads by taylor" in text
    assert "layers.0.attention" in text
    for row in rows:
        assert f"{row.head}: {row.importance:.2f} ({row.rank})" in text


def test_the_table_fits_a_terminal_and_layers_are_in_the_order_of_their_numbers() -> None:
    rows = [
        HeadImportance(layer=f"layers.{layer}", head=head, importance=1.25, rank=100 + head)
        for layer in (10, 9)
        for head in range(16)
    ]
    console = Console(width=60)
    with console.capture() as capture:
        console.print(table(rows, "taylor"))
    text = capture.get()
    assert text.index("layers.9 ") < text.index("layers.10 ")
    assert all(text.count(f"{head}: 1.25 ({100 + head})") == 2 for head in range(16))
    assert "…" not in text


def test_a_network_without_attention_raises() -> None:
    with pytest.raises(ValueError, match="has no attention heads: no module has query, key"):
        rank_heads(tiny.network(), tiny.split(9), "taylor", quiet())


def test_attention_with_unequal_widths_raises() -> None:
    network: Any = tiny_attention.network()
    network.layers[0].attention.head_dim = 5
    assert list(find_attentions(network)) == ["layers.0.attention", LAYER]
    with pytest.raises(ValueError, match="a multiple of head_dim = 5; got query 12, key 12"):
        group_heads("layers.0.attention", network.layers[0].attention)


class _Fixed(tiny_attention.Attention):
    """Has a fixed number of heads instead of inferring it from the weights."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        split = (
            part(tokens).unflatten(-1, (3, DIM)) for part in (self.query, self.key, self.value)
        )
        query, key, value = (part.transpose(1, 2) for part in split)
        read = nn.functional.scaled_dot_product_attention(query, key, value)
        output: torch.Tensor = self.output(read.transpose(1, 2).flatten(2))
        return output


def test_attention_with_a_fixed_number_of_heads_is_not_pruned() -> None:
    network: Any = tiny_attention.network()
    network.layers[0].attention = _Fixed()
    unit_groups = find_unit_groups(network, tiny_attention.split(9).samples)
    assert "layers.0.attention" not in {group.name for group in unit_groups.groups}
    reason = "the network fails if some of its units are removed"
    assert unit_groups.notes[0].startswith(f"layers.0.attention is not pruned: {reason}")
