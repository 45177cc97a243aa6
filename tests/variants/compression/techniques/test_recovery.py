from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from tests.small import quiet
from tests.variants import tiny, tiny_conv
from variants.compression.quantization.fake import round_weight
from variants.compression.quantization.writing import WeightFormat
from variants.compression.techniques.half import Bf16
from variants.compression.techniques.int8 import Int8
from variants.compression.techniques.n_m import SparseNM
from variants.compression.techniques.recovery import Recover
from variants.compression.techniques.weight_sharing import WeightSharing
from variants.model.dataset import Split
from variants.model.forward import all_scores
from variants.model.training import Schedule, accuracy, fit, predict
from variants.runtime.onnx import OnnxRunner

DATA = tiny.datasets().training_data


def test_recovery_trains_and_keeps_masked_weights_at_zero() -> None:
    sparse = SparseNM().apply(tiny.state(), DATA, quiet())
    recovered = Recover(epochs=3, batch_size=32).apply(sparse, DATA, quiet())
    for name, mask in sparse.masks.items():
        weight = recovered.network.get_parameter(name)
        assert (weight[~mask] == 0).all()
        assert not torch.equal(weight, sparse.network.get_parameter(name))


def test_recovery_can_learn_from_the_dense_network_alone() -> None:
    dense = tiny.network()
    fit(dense, DATA.train, Schedule(epochs=6, batch_size=32, learning_rate=1e-2), quiet())
    damaged = replace(tiny.state(1), dense=dense)
    wrong = replace(DATA, train=Split(DATA.train.samples, DATA.train.labels * 0))
    recover = Recover(epochs=12, batch_size=32, learning_rate=1e-2, distill=1.0)
    recovered = recover.apply(damaged, wrong, quiet())
    samples = tiny.split(300, seed=5).samples
    agreed = predict(recovered.network, samples) == predict(dense, samples)
    assert agreed.double().mean() > 0.85


def quality(graph: bytes | None, split: Split) -> float:
    assert graph is not None
    scores = OnnxRunner(graph, threads=1)(split.samples)["logits"]
    return float((scores.argmax(axis=1) == split.labels).mean())


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_after_int8_the_graph_becomes_more_accurate_and_masks_hold(mode: Any) -> None:
    sparse = SparseNM().apply(tiny.state(), DATA, quiet())
    int8 = Int8(mode=mode).apply(sparse, DATA, quiet())
    recover = Recover(epochs=5, batch_size=32, learning_rate=1e-2)
    recovered = recover.apply(int8, DATA, quiet())
    test = tiny.split(500, seed=9)
    assert quality(recovered.graph, test) > quality(int8.graph, test) + 0.2
    assert recovered.notes == int8.notes
    assert recovered.graph is not None
    stored = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load_model_from_string(recovered.graph).graph.initializer
    }
    for name, mask in sparse.masks.items():
        assert (recovered.network.get_parameter(name)[~mask] == 0).all()
        weight = stored[f"{name}_quantized"]
        assert ((weight.T if mode == "dynamic" else weight)[~mask.numpy()] == 0).all()
    again = Recover(epochs=1).apply(recovered, DATA, quiet())
    assert again.graph is not None
    assert again.graph != recovered.graph


def test_training_simulates_rounding_and_keeps_unrounded_weights() -> None:
    original = tiny_conv.state()
    data = tiny_conv.datasets().training_data
    int8 = Int8(per_channel=False, reduce_range=True).apply(original, data, quiet())
    recover = Recover(epochs=2, batch_size=32, learning_rate=5e-3)
    aware = recover.apply(int8, data, quiet())
    unaware = recover.apply(original, data, quiet())
    differ = [
        not torch.equal(aware.network.get_parameter(name), parameter)
        for name, parameter in unaware.network.named_parameters()
    ]
    assert any(differ)
    weight_format = WeightFormat(per_channel=False, reduce_range=True)
    weight = aware.network.get_parameter("widen.weight").detach()
    assert len(np.unique(round_weight(weight, weight_format))) <= 129
    assert len(np.unique(weight)) > 129


def test_after_bf16_the_fp32_network_is_trained_and_converted_again() -> None:
    original = tiny.state()
    recover = Recover(epochs=3, batch_size=32, learning_rate=1e-2)
    trained = recover.apply(original, DATA, quiet())
    recovered = recover.apply(Bf16().apply(original, DATA, quiet()), DATA, quiet())
    assert recovered.graph == Bf16().apply(trained, DATA, quiet()).graph
    test = tiny.split(200, seed=9)
    assert quality(recovered.graph, test) == pytest.approx(
        accuracy(trained.network, test), abs=0.02
    )


def test_a_graph_that_cannot_be_rebuilt_raises() -> None:
    shared = WeightSharing(values=16).apply(tiny.state(), DATA, quiet())
    with pytest.raises(ValueError, match="the step that made the graph cannot rebuild it"):
        Recover().apply(shared, DATA, quiet())


def test_the_given_state_is_not_modified() -> None:
    original = tiny.state()
    int8 = Int8().apply(original, DATA, quiet())
    samples = DATA.validation.samples
    before = all_scores(int8.network, samples).numpy()
    Recover(epochs=1, learning_rate=1e-2).apply(int8, DATA, quiet())
    assert np.array_equal(all_scores(int8.network, samples).numpy(), before)
    assert int8.conversion is not None
    assert int8.conversion.source is original
