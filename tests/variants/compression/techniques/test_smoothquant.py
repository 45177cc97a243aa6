from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from examples.minilm import model as minilm
from tests.examples import small_minilm
from tests.small import quiet
from tests.variants import tiny, tiny_conv
from tests.variants.compression.quantization.test_smoothing import WIDTH, network, samples
from variants.compression.quantization.comparator import signal_to_noise_db
from variants.compression.sparsity.statistics import draw_samples
from variants.compression.techniques.int8 import Int8
from variants.compression.techniques.n_m import SparseNM
from variants.compression.techniques.smoothquant import SmoothQuant
from variants.model.dataset import Split, TrainingData
from variants.model.forward import all_scores
from variants.model.loading import describe_interface, load_model
from variants.model.state import CompressionState
from variants.runtime.onnx import OnnxRunner


def problem() -> tuple[CompressionState, TrainingData]:
    built, inputs = network(), samples(200)
    split = Split(inputs, all_scores(built, inputs).argmax(1).numpy())
    return CompressionState(
        built, describe_interface(built, inputs, {}), dense=built
    ), TrainingData(split, split)


def noise(state: CompressionState, data: TrainingData, dense: nn.Module, mode: str) -> float:
    graph = Int8.model_validate({"mode": mode}).apply(state, data, quiet()).graph
    assert graph is not None
    inputs = data.validation.samples
    scores = OnnxRunner(graph, threads=1)(inputs)["logits"]
    return signal_to_noise_db(scores, all_scores(dense, inputs).numpy())


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_int8_is_closer_to_fp32_after_smoothing(mode: str) -> None:
    original, data = problem()
    smoothed = SmoothQuant().apply(original, data, quiet())
    before = noise(original, data, original.network, mode)
    after = noise(smoothed, data, original.network, mode)
    assert after > before + 3  # half the power of the error


def encoder() -> tuple[CompressionState, TrainingData]:
    """Return a BERT of two blocks in which channel 5 of the second `value` is an outlier."""
    built, datasets = small_minilm.network().eval(), small_minilm.datasets()
    with torch.no_grad():
        for part in ("weight", "bias"):
            built.get_parameter(f"encoder.blocks.1.attention.value.{part}")[5] *= 100
        built.get_parameter("encoder.blocks.1.attention.output.weight")[:, 5] /= 100
    state = CompressionState(
        built, describe_interface(built, datasets.train.samples, datasets.axes), dense=built
    )
    return state, datasets.training_data


def test_int8_of_an_encoder_with_outliers_is_closer_to_fp32_after_smoothing() -> None:
    original, data = encoder()
    smoothed = SmoothQuant().apply(original, data, quiet())
    assert [note.split(":")[0] for note in smoothed.notes[:2]] == [
        f"encoder.blocks.{block}.attention.value smoothed" for block in range(2)
    ]
    before = noise(original, data, original.network, "static")
    after = noise(smoothed, data, original.network, "static")
    assert after > before + 3


@pytest.mark.skipif(
    not minilm.weights().exists(), reason="`python -m examples.minilm.train` was not run"
)
def test_all_six_attentions_of_minilm_are_smoothed() -> None:
    loaded = load_model("examples.minilm.model")
    assert loaded.datasets is not None
    part = loaded.datasets.validation.part(0, 64)
    network = loaded.network
    original = CompressionState(
        network, describe_interface(network, part.samples, {}), dense=network
    )
    smoothed = SmoothQuant(samples=64).apply(original, TrainingData(part, part), quiet())
    smoothed_layers = [note.split(":")[0] for note in smoothed.notes]
    assert smoothed_layers[:6] == [
        f"encoder.blocks.{block}.attention.value smoothed" for block in range(6)
    ]
    assert len(smoothed_layers) == 6 + 13  # and its LayerNorms, which residual additions read
    scores = all_scores(network, part.samples)
    error = (all_scores(smoothed.network, part.samples) - scores).abs().max()
    assert error < 1e-5 * scores.abs().max()


def test_outputs_stay_equal_and_notes_report_the_outliers() -> None:
    original, data = problem()
    smoothed = SmoothQuant().apply(original, data, quiet())
    test = samples(30)
    assert torch.allclose(
        all_scores(smoothed.network, test), all_scores(original.network, test), atol=1e-5
    )
    assert len(smoothed.notes) == 3
    assert smoothed.notes[0].startswith("norm smoothed: its largest channel was 7.")
    assert not torch.equal(
        smoothed.network.get_parameter("norm.weight"), original.network.get_parameter("norm.weight")
    )


def test_masked_weights_stay_zero() -> None:
    original, data = problem()
    sparse = SparseNM(min_rows=1).apply(original, data, quiet())
    smoothed = SmoothQuant().apply(sparse, data, quiet())
    for name, mask in sparse.masks.items():
        weight = smoothed.network.get_parameter(name)
        assert torch.equal(weight != 0, mask & (sparse.network.get_parameter(name) != 0))
    assert smoothed.masks == sparse.masks


def test_a_network_without_smoothable_layers_raises() -> None:
    conv = tiny_conv.state()
    with pytest.raises(ValueError, match="no layer can be smoothed: there is no LayerNorm"):
        SmoothQuant().apply(conv, tiny_conv.datasets().training_data, quiet())


class PostNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        logits: Tensor = (normed + self.head(normed)).mean(1)
        return logits


def test_a_post_norm_block_raises_with_the_reason() -> None:
    built, inputs = PostNorm().eval(), samples(40)
    split = Split(inputs, np.zeros(40, np.int64))
    state = CompressionState(built, describe_interface(built, inputs, {}), dense=built)
    reason = (
        "no layer can be smoothed: norm is not smoothed: it is read by add.Tensor, not only by "
        "Linear layers"
    )
    with pytest.raises(ValueError, match=reason):
        SmoothQuant().apply(state, TrainingData(split, split), quiet())


def test_equal_seeds_give_equal_weights() -> None:
    def weights(result: CompressionState) -> Tensor:
        return result.network.get_parameter("0.weight")

    data = tiny.datasets().training_data
    first, second, other = (
        SmoothQuant(samples=40, seed=seed).apply(tiny.state(), data, quiet()) for seed in (1, 1, 2)
    )
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


def test_samples_are_drawn_like_those_of_other_techniques() -> None:
    original, data = problem()
    chosen = draw_samples(data.validation, 40, 3)
    result = SmoothQuant(samples=40, seed=3).apply(original, data, quiet())
    expected = SmoothQuant().apply(original, TrainingData(chosen, chosen), quiet())
    assert result.notes == expected.notes
    for name, weight in expected.network.named_parameters():
        assert torch.equal(result.network.get_parameter(name), weight)
