from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization.calibrate import load_tensors_data

from tests.small import quiet
from tests.variants import tiny
from variants.compression.export import export
from variants.compression.quantization.calibration import METHODS, Method, calibrate


def read_ranges(path: Path) -> dict[str, tuple[float, float]]:
    """Return the lowest and the highest value of each tensor in a file of ranges."""
    tensors = load_tensors_data(path)
    return {
        name: (float(tensors[name].lowest.item()), float(tensors[name].highest.item()))
        for name in tensors.keys()  # noqa: SIM118  # it is not a mapping
    }


@cache
def exported() -> onnx.ModelProto:
    state = tiny.state()
    return export(state.network, tiny.split(4).samples, state.interface)


def calibrated(method: Method, samples: dict[str, np.ndarray], folder: Path) -> dict[str, Any]:
    return read_ranges(calibrate(exported(), samples, method, folder, quiet()))


def test_minmax_finds_the_extremes_over_all_batches(tmp_path: Path) -> None:
    samples = dict(tiny.split(45).samples)
    ranges = calibrated("minmax", samples, tmp_path)
    inputs = samples["input"]
    assert ranges["input"] == (pytest.approx(inputs.min()), pytest.approx(inputs.max()))
    with torch.inference_mode():
        hidden = torch.relu(tiny.network()[0](torch.from_numpy(inputs)))
    assert ranges["relu"] == (0, pytest.approx(float(hidden.max()), rel=1e-5))


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_entropy_and_percentile_cut_off_an_outlier(method: Method, tmp_path: Path) -> None:
    samples = {"input": tiny.split(3000).samples["input"].clip(-4, 4)}
    samples["input"][7, 3] = 100
    low, high = calibrated(method, samples, tmp_path)["input"]
    assert calibrated("minmax", samples, tmp_path)["input"][1] == 100
    assert high < 50
    assert low < -3


def test_the_output_of_a_relu_has_no_range_below_zero(tmp_path: Path) -> None:
    samples = dict(tiny.split(64).samples)
    for method in METHODS:
        assert calibrated(method, samples, tmp_path)["relu"][0] == pytest.approx(0, abs=0.01)
