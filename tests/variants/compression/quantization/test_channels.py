from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.examples import small_minilm
from tests.small import quiet
from variants.compression.quantization.smoothing import (
    SmoothingGroup,
    find_groups,
    largest_activations,
    smooth,
)
from variants.model.dataset import Samples
from variants.model.forward import all_scores

WIDTH, HEADS, HEAD_DIM, TOKENS = 8, 2, 4, 6
SAMPLES: Samples = {
    "x": np.random.default_rng(0).standard_normal((40, TOKENS, WIDTH)).astype(np.float32)
}
Mix = Callable[[Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """Applies `mix` between its Linear layers `value` and `output`.

    `mix` takes the input and the output of `value`, both `[n, tokens, WIDTH]`.
    """

    def __init__(self, mix: Mix, *, values: int = WIDTH, mixed: int = WIDTH) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.value, self.output = nn.Linear(WIDTH, values), nn.Linear(mixed, 3)
        self.mix = mix
        with torch.no_grad():
            self.value.weight[2] *= 40

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.output(self.mix(x, self.value(x))).flatten(1, -2).mean(1)
        return scores


FOLD = SmoothingGroup("value.weight", "value.bias", ("output.weight",))


def heads(x: Tensor) -> Tensor:
    return torch.unflatten(x, 2, (-1, HEAD_DIM)).transpose(1, 2)


def weights(x: Tensor) -> Tensor:
    """Return the attention weights of each head, `[n, heads, tokens, tokens]`."""
    return (heads(x) @ heads(x).transpose(2, 3)).softmax(3)


def by_head(x: Tensor, value: Tensor) -> Tensor:
    return (weights(x) @ heads(value)).transpose(1, 2).flatten(2)


def fused(x: Tensor, value: Tensor) -> Tensor:
    query, values = (
        each.view(-1, TOKENS, HEADS, HEAD_DIM).permute(0, 2, 1, 3) for each in (x, value)
    )
    mixed = F.scaled_dot_product_attention(query, query, values, enable_gqa=True)
    return F.dropout(mixed.permute(0, 2, 1, 3).contiguous().reshape(len(x), TOKENS, -1), 0.1, False)


def in_batches(x: Tensor, value: Tensor) -> Tensor:
    """Attention with samples and heads in one dimension."""
    mixed = torch.bmm(weights(x).flatten(0, 1), heads(value).reshape(-1, TOKENS, HEAD_DIM))
    return mixed.view(-1, HEADS, TOKENS, HEAD_DIM).transpose(-3, -2).flatten(-2)


def shared(x: Tensor, value: Tensor) -> Tensor:
    """Attention with the same weights for every head and sample."""
    mixed = x.mean((0, 2)).softmax(0).expand(TOKENS, TOKENS) @ heads(value)
    return mixed.transpose(1, 2).flatten(2)


def linear_attention(x: Tensor, value: Tensor) -> Tensor:
    query = heads(x).softmax(3)
    return (query @ (query.transpose(2, 3) @ heads(value))).transpose(1, 2).flatten(2)


def there_and_back(x: Tensor, value: Tensor) -> Tensor:
    """Merges heads in the wrong order and splits them again; merges samples and tokens."""
    swapped = value.view(-1, 1, HEADS, HEAD_DIM).transpose(2, 3).flatten(1)
    apart = torch.unflatten(swapped, 1, (HEAD_DIM, HEADS)).permute(0, 2, 1)
    return apart.reshape(8, -1, WIDTH).unsqueeze(1).expand(-1, 2, -1, -1)


EXACT: dict[str, Mix] = {
    "by head": by_head,
    "fused": fused,
    "samples and heads in one dimension": in_batches,
    "weights broadcast to the heads": shared,
    "linear attention": linear_attention,
    "merged in the wrong order, and back": there_and_back,
}

NOT_EXACT: dict[str, Mix] = {
    "merged in the wrong order": lambda x, v: (
        (weights(x) @ heads(v)).permute(0, 2, 3, 1).flatten(2)
    ),
    "merged without putting heads beside their channels": lambda x, v: (
        weights(x) @ heads(v)
    ).reshape(-1, TOKENS, WIDTH),
    "a sum over channels": lambda x, v: x @ v.transpose(1, 2) @ x,
    "a sum over the channels of a head": lambda x, v: (
        (heads(x) @ heads(v).transpose(2, 3) @ heads(x)).transpose(1, 2).flatten(2)
    ),
    "a sum over heads": lambda x, v: (
        torch.unflatten(x, 2, (HEADS, HEAD_DIM))[..., :HEADS]
        @ torch.unflatten(v, 2, (HEADS, HEAD_DIM))
    ).flatten(2),
    "another operator reads the product": lambda x, v: (mixed := by_head(x, v)) + mixed.square(),
    "the values are also the attention weights": lambda _, v: by_head(v, v),
    "the values are also the keys": lambda x, v: (
        F.scaled_dot_product_attention(heads(x), heads(v), heads(v)).transpose(1, 2).flatten(2)
    ),
    "the values are also the mask": lambda x, v: F.scaled_dot_product_attention(
        x, x, v, v[..., :TOKENS]
    ),
    "tokens read as channels": lambda _, v: v.transpose(1, 2).reshape(-1, TOKENS, WIDTH),
    "samples read as channels": lambda _, v: (
        v.reshape(WIDTH, -1).transpose(0, 1).reshape(-1, TOKENS, WIDTH)
    ),
    "a nonlinear activation": lambda x, v: F.gelu(by_head(x, v)),
}
"""Mixes for which scaling `value` and `output` would change the output."""


def relative_difference(network: nn.Module, other: nn.Module, samples: Samples) -> float:
    """Return the largest difference of scores, over the largest score."""
    scores = all_scores(network, samples)
    return float((all_scores(other, samples) - scores).abs().max() / scores.abs().max())


def fold(
    network: nn.Module, samples: Samples, groups: Mapping[str, SmoothingGroup]
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a smoothed copy of the network, and the largest activations of the network."""
    after = copy.deepcopy(network)
    largest = largest_activations(network, samples, groups, quiet())
    for node, group in groups.items():
        smooth(after, group, largest[node], 0.5)
    return after, largest


@pytest.mark.parametrize("mix", EXACT.values(), ids=EXACT)
def test_channels_are_followed_to_the_linear_that_reads_them(mix: Mix) -> None:
    attention = Attention(mix).eval()
    groups, _ = find_groups(attention, SAMPLES)
    assert list(groups.values()) == [FOLD]
    after, largest = fold(attention, SAMPLES, groups)
    assert relative_difference(attention, after, SAMPLES) < 1e-5
    (before,), (shrunk,) = (
        largest.values(),
        largest_activations(after, SAMPLES, groups, quiet()).values(),
    )
    assert before.argmax() == 2
    assert shrunk.max() / shrunk.median() < before.max() / before.median() / 3


@pytest.mark.parametrize("mix", NOT_EXACT.values(), ids=NOT_EXACT)
def test_a_mix_whose_output_scaling_would_change_is_refused(mix: Mix) -> None:
    attention = Attention(mix).eval()
    assert find_groups(attention, SAMPLES) == ({}, ())
    forced = copy.deepcopy(attention)
    smooth(forced, FOLD, torch.arange(1.0, 1 + WIDTH), 0.5)
    assert relative_difference(attention, forced, SAMPLES) > 1e-2


def repeated(x: Tensor, value: Tensor) -> Tensor:
    query = x.repeat(1, 1, 2)
    mixed = F.scaled_dot_product_attention(heads(query), heads(x), heads(value), enable_gqa=True)
    return mixed.transpose(1, 2).flatten(2)


def repeated_beforehand(x: Tensor, value: Tensor) -> Tensor:
    twice = heads(value)[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2)
    return (weights(x.repeat(1, 1, 2)) @ twice).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("mix", [repeated, repeated_beforehand])
def test_grouped_queries_are_refused(mix: Mix) -> None:
    attention = Attention(mix, mixed=2 * WIDTH).eval()
    assert find_groups(attention, SAMPLES) == ({}, ())


def test_a_linear_over_tokens_and_channels_is_refused() -> None:
    attention = Attention(lambda _, value: value.flatten(1)[:, None], mixed=TOKENS * WIDTH).eval()
    assert find_groups(attention, SAMPLES) == ({}, ())


def test_a_shape_that_depends_on_values_is_refused() -> None:
    def chosen(x: Tensor, value: Tensor) -> Tensor:
        return torch.unflatten(value[x[..., 0] > 0], 1, (HEADS, HEAD_DIM)).flatten(1)[None]

    assert find_groups(Attention(chosen).eval(), SAMPLES) == ({}, ())


def minilm(pruned: bool) -> nn.Module:
    """Return a network of two blocks, the first with three of its four heads if `pruned`."""
    network = small_minilm.network().eval()
    if pruned:
        attention = network.encoder.get_submodule("blocks.0.attention")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            for name in ("query", "key", "value"):
                setattr(attention, name, nn.Linear(16, 12))
            attention.output = nn.Linear(12, 16)
    return network


@pytest.mark.parametrize("pruned", [False, True], ids=["whole", "pruned"])
def test_a_post_norm_transformer_has_a_group_for_each_attention(pruned: bool) -> None:
    network, samples = minilm(pruned), small_minilm.datasets().validation.samples
    groups, notes = find_groups(network, samples)
    prefixes = [f"encoder.blocks.{block}.attention." for block in range(2)]
    assert list(groups.values()) == [
        SmoothingGroup(f"{prefix}value.weight", f"{prefix}value.bias", (f"{prefix}output.weight",))
        for prefix in prefixes
    ]
    assert len(notes) == 5  # one for each LayerNorm
    after, _ = fold(network, samples, groups)
    assert relative_difference(network, after, samples) < 1e-5
    for prefix in prefixes:
        name = f"{prefix}value.weight"
        assert not torch.allclose(after.get_parameter(name), network.get_parameter(name), rtol=0.1)


def test_the_largest_activations_are_those_of_the_product() -> None:
    attention = Attention(by_head).eval()
    groups, _ = find_groups(attention, SAMPLES)
    (largest,) = largest_activations(attention, SAMPLES, groups, quiet()).values()
    x = torch.from_numpy(SAMPLES["x"][:32])
    with torch.inference_mode():
        value = attention.value(x)
        read = by_head(x, value).abs().flatten(0, 1).amax(0)
    assert torch.allclose(largest, read, rtol=1e-5)
    assert (largest < value.abs().flatten(0, 1).amax(0)).all()


OTHER_ORDER = "a Linear reads its channels in another order, or not all of them"
MIXED = "a reshape mixes its channels with another dimension"
SUMMED = "a product sums over its channels"


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("merged in the wrong order", OTHER_ORDER),
        ("tokens read as channels", MIXED),
        ("samples read as channels", MIXED),
        ("a sum over channels", SUMMED),
        ("a sum over the channels of a head", SUMMED),
        ("a sum over heads", SUMMED),
        (
            "another operator reads the product",
            "it is read by square.default, not only by Linear layers",
        ),
        (
            "the values are also the attention weights",
            "it is read by matmul.default, not only by Linear layers",
        ),
    ],
)
def test_the_note_on_a_layer_norm_gives_the_reason(case: str, reason: str) -> None:
    attention = Attention(NOT_EXACT[case]).eval()
    attention.value = nn.LayerNorm(WIDTH)  # type: ignore[assignment]  # only LayerNorms have notes
    assert find_groups(attention, SAMPLES) == ({}, (f"value is not smoothed: {reason}",))


class VectorProduct(Attention):
    """Multiplies a vector of weights with the values, which removes the dimension of tokens."""

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.output(x.mean((0, 2)).softmax(0) @ self.value(x))
        return scores


def test_a_product_with_a_vector_is_refused() -> None:
    attention = VectorProduct(by_head).eval()
    attention.value = nn.LayerNorm(WIDTH)  # type: ignore[assignment]  # only LayerNorms have notes
    reason = "a product with a vector removes a dimension"
    assert find_groups(attention, SAMPLES) == ({}, (f"value is not smoothed: {reason}",))


class Unread(Attention):
    """Computes the heads of the values, which nothing reads."""

    def forward(self, x: Tensor) -> Tensor:
        value = self.value(x)
        heads(value)
        scores: Tensor = self.output(value).mean(1)
        return scores


def test_an_unread_result_does_not_matter() -> None:
    assert list(find_groups(Unread(by_head).eval(), SAMPLES)[0].values()) == [FOLD]


def test_an_activation_that_nothing_reads_is_refused() -> None:
    attention = Attention(lambda x, value: (heads(value), x)[1]).eval()
    attention.value = nn.LayerNorm(WIDTH)  # type: ignore[assignment]  # only LayerNorms have notes
    assert find_groups(attention, SAMPLES) == ({}, ("value is not smoothed: no Linear reads it",))


class Residual(Attention):
    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(x, self.value(x))
        scores: Tensor = (self.output(mixed).sum(-1, keepdim=True) + mixed).mean(1)
        return scores


def test_a_product_with_a_residual_connection_is_refused() -> None:
    attention = Residual(by_head).eval()
    assert find_groups(attention, SAMPLES) == ({}, ())
    attention.value = nn.LayerNorm(WIDTH)  # type: ignore[assignment]  # only LayerNorms have notes
    reason = "it is read by add.Tensor, not only by Linear layers"
    assert find_groups(attention, SAMPLES) == ({}, (f"value is not smoothed: {reason}",))


class ValuesAsBias(Attention):
    def forward(self, x: Tensor) -> Tensor:
        bias = self.value(x.mean((0, 1)))
        return F.linear(x, self.output.weight, bias).mean(1)


def test_values_that_are_a_bias_are_refused() -> None:
    attention = ValuesAsBias(by_head).eval()
    attention.output = nn.Linear(WIDTH, WIDTH)
    assert find_groups(attention, SAMPLES) == ({}, ())
