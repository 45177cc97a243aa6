from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tests.variants import tiny
from tests.variants.model.projects import write_model, write_weights
from variants.catalog.catalog import TensorSpec
from variants.model.dataset import Axes, Samples
from variants.model.loading import (
    describe_interface,
    load_datasets,
    load_model,
    load_network,
    load_path,
    load_reference,
    load_weights,
)


def test_a_reference_is_imported() -> None:
    assert load_reference("tests.variants.tiny:network") is tiny.network


def test_the_working_directory_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user_module.py").write_text("def build():\n    return 7\n")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    assert load_reference("user_module:build")() == 7


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module:build", "cannot import no_such_module: No module named"),
        ("tests.variants.tiny:absent", r"tiny\.py has no function absent\(\)"),
        ("tests.variants.tiny:INPUTS", r"has no function INPUTS\(\)"),
    ],
)
def test_an_invalid_reference_is_rejected(reference: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_reference(reference)


def test_a_loaded_network_is_in_evaluation_mode() -> None:
    assert not load_network("tests.variants.tiny:network").training


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (load_network, r"tiny\.datasets\(\) must return a torch\.nn\.Module, got Datasets"),
        (load_datasets, "must return variants.model.dataset.Datasets, got CompressionState"),
        (load_path, "must return the pathlib.Path of a safetensors file, got CompressionState"),
    ],
)
def test_the_types_of_returned_values_are_checked(load: object, message: str) -> None:
    reference = "tests.variants.tiny:" + ("datasets" if load is load_network else "state")
    with pytest.raises(ValueError, match=message):
        load(reference)  # type: ignore[operator]  # a table of functions


def test_a_model_is_loaded_from_one_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(tmp_path)
    loaded = load_model(write_model(tmp_path, monkeypatch))
    assert loaded.weights == tmp_path / "weights.safetensors"
    weights = safetensors.torch.load_file(loaded.weights)
    assert torch.equal(loaded.network.get_parameter("0.weight"), weights["0.weight"])
    assert not loaded.network.training
    assert len(loaded.datasets.test) == 100


def test_weights_are_loaded(tmp_path: Path) -> None:
    safetensors.torch.save_file(tiny.network(1).state_dict(), tmp_path / "w.safetensors")
    network = tiny.network(0)
    load_weights(network, tmp_path / "w.safetensors")
    assert torch.equal(network.get_parameter("0.weight"), tiny.network(1).get_parameter("0.weight"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "there is no weights file .*w.safetensors; train", id="missing"),
        pytest.param(b"not safetensors", "w.safetensors is not a safetensors file", id="garbage"),
        pytest.param(
            safetensors.torch.save({"0.weight": torch.zeros(16, 7)}),
            r"w.safetensors does not fit the network: it lacks 0\.bias, .* and 2 more; it has "
            r"0\.weight \[16, 7\] where the network has \[16, 8\]",
            id="other tensors",
        ),
    ],
)
def test_weights_that_do_not_fit_are_rejected(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_weights(tiny.network(), path)


def test_describe() -> None:
    interface = describe_interface(tiny.network(), tiny.split(4).samples, {})
    assert interface.inputs == (TensorSpec(name="input", datatype="FP32", shape=(-1, 8)),)
    assert interface.outputs == (TensorSpec(name="logits", datatype="FP32", shape=(-1, 3)),)


def test_describe_detects_variable_dimensions_of_the_outputs() -> None:
    ids = {"ids": np.zeros((3, 4), dtype=np.int64)}
    interface = describe_interface(nn.Embedding(5, 2), ids, {"ids": {1: "tokens"}})
    assert interface.inputs == (TensorSpec(name="ids", datatype="INT64", shape=(-1, -1)),)
    assert interface.outputs == (TensorSpec(name="logits", datatype="FP32", shape=(-1, -1, 2)),)


@pytest.mark.parametrize(
    ("samples", "axes", "message"),
    [
        ({"x": np.zeros((1, 9), np.float32)}, {}, r"a sample \(x float32 \[1, 9\]\): RuntimeError"),
        (
            {"x": np.zeros((1, 8), np.float32)},
            {"y": {1: "n"}},
            "unknown input 'y'; the inputs are x",
        ),
        ({"x": np.zeros((1, 8), np.float32)}, {"x": {2: "n"}}, "from 1 to 1, got 2"),
    ],
)
def test_samples_that_do_not_fit_the_network_are_rejected(
    samples: Samples, axes: Axes, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        describe_interface(tiny.network(), samples, axes)
