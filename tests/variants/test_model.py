from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tests.variants import tiny
from variants.catalog import TensorSpec
from variants.model import describe, load_datasets, load_network, load_reference, load_weights


def test_a_reference_is_imported() -> None:
    assert load_reference("tests.variants.tiny:network") is tiny.network


def test_the_working_directory_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brought_along.py").write_text("def build():\n    return 7\n")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    assert load_reference("brought_along:build")() == 7


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module:build", "cannot import 'no_such_module:build': No module named"),
        ("tests.variants.tiny:absent", "module tests.variants.tiny has no function 'absent'"),
        ("tests.variants.tiny:INPUTS", "has no function 'INPUTS'"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused(reference: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_reference(reference)


def test_a_network_comes_ready_to_be_asked() -> None:
    assert not load_network("tests.variants.tiny:network").training


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (load_network, "must return an nn.Module, got Datasets"),
        (load_datasets, "must return variants.dataset.Datasets, got Workpiece"),
    ],
)
def test_what_a_function_returns_is_checked(load: object, message: str) -> None:
    reference = "tests.variants.tiny:" + ("datasets" if load is load_network else "workpiece")
    with pytest.raises(ValueError, match=message):
        load(reference)  # type: ignore[operator]  # a table of two functions


def test_weights_are_loaded(tmp_path: Path) -> None:
    safetensors.torch.save_file(tiny.network(1).state_dict(), tmp_path / "w.safetensors")
    network = tiny.network(0)
    load_weights(network, tmp_path / "w.safetensors")
    assert torch.equal(network.get_parameter("0.weight"), tiny.network(1).get_parameter("0.weight"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "there is no weights file .*w.safetensors; train", id="missing"),
        pytest.param(b"not safetensors", "w.safetensors does not fit the model", id="garbage"),
        pytest.param(
            safetensors.torch.save({"0.weight": torch.zeros(16, 8)}),
            r"w.safetensors does not fit the model: (?s:.*)Missing.*0\.bias",
            id="other tensors",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_weights(tiny.network(), path)


def test_describe() -> None:
    inputs, outputs = describe(tiny.network(), tiny.split(4).samples)
    assert inputs == (TensorSpec(name="input", datatype="FP32", shape=(-1, 8)),)
    assert outputs == (TensorSpec(name="logits", datatype="FP32", shape=(-1, 3)),)


def test_describe_knows_integers() -> None:
    inputs, _ = describe(nn.Embedding(5, 2), np.zeros((3, 4), dtype=np.int64))
    assert inputs == (TensorSpec(name="input", datatype="INT64", shape=(-1, 4)),)
