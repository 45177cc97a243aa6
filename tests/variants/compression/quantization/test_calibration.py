from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnxruntime.quantization.calibrate import load_tensors_data

from tests.small import quiet
from tests.variants import tiny
from variants.compression.export import export
from variants.compression.quantization.calibration import METHODS, Method, calibrate
from variants.model.loading import describe


def ranges_of(path: Path) -> dict[str, tuple[float, float]]:
    found = load_tensors_data(path)
    return {
        name: (float(found[name].lowest.item()), float(found[name].highest.item()))
        for name in found.keys()  # noqa: SIM118  # it is no mapping
    }


def calibrated(method: Method, samples: dict[str, np.ndarray], folder: Path) -> dict[str, Any]:
    network = tiny.network()
    model = export(network, samples, describe(network, samples, {}))
    return ranges_of(calibrate(model, samples, method, folder, quiet()))


def test_minmax_finds_the_extremes_over_all_batches(tmp_path: Path) -> None:
    samples = dict(tiny.split(45).samples)
    found = calibrated("minmax", samples, tmp_path)
    inputs = samples["input"]
    assert found["input"] == (pytest.approx(inputs.min()), pytest.approx(inputs.max()))
    with torch.inference_mode():
        hidden = torch.relu(tiny.network()[0](torch.from_numpy(inputs)))
    assert found["relu"] == (0, pytest.approx(float(hidden.max()), rel=1e-5))


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_the_other_calibrators_cut_an_outlier_off(method: Method, tmp_path: Path) -> None:
    samples = {"input": tiny.split(3000).samples["input"].clip(-4, 4)}
    samples["input"][7, 3] = 100
    low, high = calibrated(method, samples, tmp_path)["input"]
    assert calibrated("minmax", samples, tmp_path)["input"][1] == 100
    assert high < 50
    assert low < -3


def test_what_a_relu_gives_has_no_range_below_zero(tmp_path: Path) -> None:
    samples = dict(tiny.split(64).samples)
    for method in METHODS:
        assert calibrated(method, samples, tmp_path)["relu"][0] == pytest.approx(0, abs=0.01)
