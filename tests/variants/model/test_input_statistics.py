from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tests.small import quiet
from tests.variants import tiny
from variants.model.forward import BATCH
from variants.model.input_statistics import measure_input_statistics


def test_mean_and_moments_cover_all_inputs_of_a_layer() -> None:
    network, samples = tiny.network(), tiny.split(BATCH + 100).samples
    layers = {name: network.get_submodule(name) for name in ("0", "2")}
    statistics = measure_input_statistics(
        network, {n: m for n, m in layers.items() if isinstance(m, nn.Linear)}, samples, quiet()
    )
    inputs = torch.from_numpy(samples["input"])
    with torch.inference_mode():
        hidden = network.get_submodule("1")(network.get_submodule("0")(inputs))
    for name, expected in (("0", inputs), ("2", hidden)):
        array = expected.numpy().astype(np.float64)
        np.testing.assert_allclose(statistics[name].mean, array.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(
            statistics[name].moments, array.T @ array / len(array), atol=1e-6
        )
        covariance = np.cov(array, rowvar=False, bias=True)
        np.testing.assert_allclose(statistics[name].covariance, covariance, atol=1e-6)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_all_positions_of_all_calls_count_and_unused_layers_are_missing() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            self.layer(values.reshape(-1, 4, 2))
            scores: torch.Tensor = self.layer(input=values[:, :2] + 1)
            return scores

    network, samples = Twice().eval(), tiny.split(10).samples
    layers = {"layer": network.layer, "unused": network.unused}
    statistics = measure_input_statistics(network, layers, samples, quiet())
    values = samples["input"]
    expected = np.concatenate([values.reshape(-1, 2), values[:, :2] + 1])
    assert statistics.keys() == {"layer"}
    np.testing.assert_allclose(statistics["layer"].mean, expected.mean(axis=0), atol=1e-6)
