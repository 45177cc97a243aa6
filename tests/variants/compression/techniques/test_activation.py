from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tests.small import quiet
from tests.variants import tiny, tiny_attention, tiny_conv, two_inputs
from variants.compression.pruning.neurons import RunningMoments, count_parameters
from variants.compression.techniques.activation import ActivationPruning
from variants.model.forward import all_scores
from variants.model.state import CompressionState


def _prune(module: Any, **parameters: Any) -> CompressionState:
    pruning = ActivationPruning(**parameters)
    return pruning.apply(module.state(), module.datasets().training_data, quiet())


@pytest.mark.parametrize("module", [tiny, tiny_conv, two_inputs, tiny_attention])
def test_the_share_of_the_parameters_is_removed(module: Any) -> None:
    dense = module.network()
    result = _prune(module, share=0.25)
    removed = 1 - count_parameters(result.network) / count_parameters(dense)
    assert 0.25 <= removed < 0.34
    samples = module.split(30).samples
    assert all_scores(result.network, samples).isfinite().all()
    assert result.notes[0].startswith("kept layer ")


def test_a_share_equals_the_thresholds_that_remove_it() -> None:
    result = _prune(tiny, share=0.4)
    layers: Any = result.network
    widths = [len(layers[at].weight) for at in (0, 2)]
    magnitudes = []
    network, samples = tiny.network(), tiny.datasets().validation.samples
    for end in (2, 4):
        activations = tiny.answers(network[:end], samples).astype(np.float64)
        magnitudes.append(np.maximum(np.abs(activations.mean(0)), activations.std(0)))
    for threshold in sorted(np.concatenate(magnitudes)):
        kept = [int((layer >= threshold).sum()) for layer in magnitudes]
        if kept == widths:
            break
    same = _prune(tiny, mean_below=threshold, deviation_below=threshold)
    for one, two in zip(result.network.parameters(), same.network.parameters(), strict=True):
        assert torch.equal(one, two)


def test_removing_a_zero_channel_of_a_residual_network_keeps_outputs() -> None:
    original = tiny_conv.state()
    network: Any = original.network
    with torch.no_grad():
        network.widen_norm.weight[3] = 0
        network.widen_norm.bias[3] = -0.1
    pruning = ActivationPruning(mean_below=1e-6, deviation_below=1e-6)
    result = pruning.apply(original, tiny_conv.datasets().training_data, quiet())
    widen: Any = result.network.widen
    assert widen.out_channels == 15
    assert (
        result.notes[0] == "kept layer stem + narrow: 8 of 8 neurons; layer widen: 15 of 16 neurons"
    )
    samples = tiny_conv.split(20).samples
    expected = all_scores(network, samples).numpy()
    np.testing.assert_allclose(all_scores(result.network, samples).numpy(), expected, atol=1e-6)


def test_heads_and_normalized_channels_are_not_pruned() -> None:
    result = _prune(tiny_attention, mean_below=0.05, deviation_below=0.1)
    network: Any = result.network
    assert len(network.layers[0].attention.query.weight) == 12
    assert result.notes[1] == "embedding + 4 more is not pruned: a LayerNorm normalizes it"


def test_excluded_layers_keep_neurons_and_notes_name_means_that_are_not_folded() -> None:
    result = _prune(tiny_conv, mean_below=9, deviation_below=9, exclude=("stem",))
    network: Any = result.network
    assert (network.stem.out_channels, network.widen.out_channels) == (8, 1)
    assert result.notes[1] == (
        "means not folded into narrow: it pads, so that fewer inputs contribute at its edges"
    )
    assert len(_prune(tiny_conv, mean_below=9, deviation_below=9, fold_means=False).notes) == 1


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"mean_below": 0.1},
        {"share": 0.5, "mean_below": 0.1},
        {"share": 0.5, "mean_below": 0.1, "deviation_below": 0.1},
    ],
)
def test_either_thresholds_or_a_share_must_be_set(parameters: dict[str, float]) -> None:
    with pytest.raises(
        ValidationError, match="set either both mean_below and deviation_below, or share"
    ):
        ActivationPruning(**parameters)


@pytest.mark.parametrize("parameters", [{"share": 0}, {"share": 1}])
def test_a_share_is_between_0_and_1(parameters: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="share"):
        ActivationPruning(**parameters)


def test_a_share_that_cannot_be_reached_raises() -> None:
    with pytest.raises(ValueError, match=r"cannot remove 60.0% of the 2,919 parameters, only 3\d"):
        _prune(tiny_attention, share=0.6)


def test_a_network_without_hidden_layers_raises() -> None:
    network = nn.Sequential(nn.Linear(tiny.INPUTS, 3))
    original = CompressionState(network, tiny.state().interface, dense=network)
    with pytest.raises(ValueError, match="there are no hidden neurons to prune: no hidden layers"):
        ActivationPruning(share=0.5).apply(original, tiny.datasets().training_data, quiet())


@pytest.mark.parametrize(
    ("mean", "deviation", "is_kept"),
    [
        pytest.param(0.0, 0.0, False, id="always zero"),
        pytest.param(0.5, 0.0, True, id="constant"),
        pytest.param(-0.5, 0.0, True, id="constant and negative"),
        pytest.param(0.0, 0.5, True, id="varies about zero"),
        pytest.param(0.09, 0.19, False, id="just below both"),
        pytest.param(0.1, 0.0, True, id="at the mean's threshold"),
        pytest.param(0.0, 0.2, True, id="at the deviation's threshold"),
    ],
)
def test_a_neuron_is_removed_if_mean_and_deviation_are_both_small(
    mean: float, deviation: float, is_kept: bool
) -> None:
    moments = RunningMoments(2)
    moments.update(np.array([[mean - deviation, 100.0], [mean + deviation, -100.0]]))
    kept = ActivationPruning(mean_below=0.1, deviation_below=0.2).choose({"0": moments})
    assert kept["0"].tolist() == [is_kept, True]


def test_a_layer_below_both_thresholds_keeps_the_neuron_with_the_largest_sum() -> None:
    moments = RunningMoments(3)
    moments.update(np.array([[0.0, 0.1, 0.4], [0.0, 0.3, 0.4]]))
    kept = ActivationPruning(mean_below=9, deviation_below=9).choose({"0": moments})
    assert kept["0"].tolist() == [False, False, True]


def test_the_network_becomes_smaller_and_a_note_says_by_how_much() -> None:
    pruning = ActivationPruning(mean_below=0.3, deviation_below=0.4)
    pruned = pruning.apply(tiny.state(), tiny.datasets().training_data, quiet())
    kept = pruned.network[0].out_features  # type: ignore[index]
    assert 0 < kept < tiny.HIDDEN
    assert f"kept layer 0: {kept} of {tiny.HIDDEN} neurons" in pruned.notes[0]


def test_a_note_warns_of_a_layer_that_keeps_hardly_any_neuron() -> None:
    network = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    state = CompressionState(network, tiny.state().interface, dense=network)
    silent = ActivationPruning(mean_below=1e9, deviation_below=1e9)
    notes = silent.apply(state, tiny.datasets().training_data, quiet()).notes
    assert any(n.startswith("warning: layer 0 keeps only 1 of 32 neurons; lower") for n in notes)
    mild = ActivationPruning(mean_below=0, deviation_below=0)
    notes = mild.apply(state, tiny.datasets().training_data, quiet()).notes
    assert not any("warning" in note for note in notes)
