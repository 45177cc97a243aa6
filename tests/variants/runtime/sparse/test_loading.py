from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import variants.runtime.torch
from tests.small import quiet
from tests.variants import tiny
from tests.variants.catalog.cards import card
from variants.build.build import create_artifact
from variants.catalog import artifact
from variants.catalog.catalog import Model, Variant
from variants.catalog.hardware import hardware
from variants.catalog.kernels import KernelTable
from variants.compression.techniques.n_m import SparseNM
from variants.runtime.runner import load_runner, measure_kernels
from variants.runtime.sparse import network

SAMPLES = tiny.split(20).samples
STATE = SparseNM().apply(tiny.state(), tiny.datasets().training_data, quiet())


@pytest.fixture
def model() -> Model:
    return Model(
        name="m",
        factory="tests.variants.tiny:network",
        weights_sha256="",
        datasets_sha256="",
        inputs=STATE.interface.inputs,
        outputs=STATE.interface.outputs,
    )


@pytest.fixture
def variant(tmp_path: Path) -> Variant:
    runner, files = create_artifact(STATE, tiny.datasets().training_data)
    return artifact.save(tmp_path, Variant(name="v", recipe=(), runner=runner, files=()), files)


def _sparse(table: KernelTable | None) -> KernelTable:
    assert table is not None
    layers = {
        name: layer.model_copy(
            update={
                "choices": tuple(c.model_copy(update={"kernel": "rows"}) for c in layer.choices)
            }
        )
        for name, layer in table.layers.items()
    }
    return table.model_copy(update={"layers": layers})


def _measuring_fails(*_: object, **__: object) -> KernelTable:
    raise AssertionError("the kernels should not be measured")


def test_the_kernels_of_the_report_card_for_this_hardware_are_used(
    tmp_path: Path, model: Model, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = measure_kernels(tmp_path, model, variant, threads=1)
    here = card(key=hardware(1).key).model_copy(update={"kernels": table})
    elsewhere = card(key="other").model_copy(update={"kernels": table})
    monkeypatch.setattr(network, "measure_kernels", _measuring_fails)
    measured = variant.model_copy(update={"report_cards": (elsewhere, here)})
    answers = load_runner(tmp_path, model, measured, threads=1)(SAMPLES)["logits"]
    np.testing.assert_allclose(answers, tiny.answers(STATE.network, SAMPLES), atol=1e-5)
    for unmeasured in (variant, variant.model_copy(update={"report_cards": (elsewhere,)})):
        with pytest.raises(AssertionError, match="should not be measured"):
            load_runner(tmp_path, model, unmeasured, threads=1)


def test_the_measured_table_lists_every_layer(
    tmp_path: Path, model: Model, variant: Variant
) -> None:
    table = measure_kernels(tmp_path, model, variant, threads=1)
    assert table is not None
    assert [(name, layer.kind) for name, layer in table.layers.items()] == [
        ("0", "linear-2:4"),
        ("2", "linear-2:4"),
        ("4", "dense"),
    ]
    onnx = variant.model_copy(update={"runner": "onnx"})
    assert measure_kernels(tmp_path, model, onnx, threads=1) is None


def test_a_loaded_variant_keeps_no_dense_weights_and_their_memory_is_returned(
    tmp_path: Path, model: Model, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    when_returned: list[int] = []

    def dense_weights() -> int:
        gc.collect()
        found = [each for each in gc.get_objects() if type(each) in (torch.Tensor, nn.Parameter)]
        return sum(each.shape == (tiny.HIDDEN, tiny.HIDDEN) for each in found)

    kernels = _sparse(measure_kernels(tmp_path, model, variant, threads=1))
    monkeypatch.setattr(
        variants.runtime.torch, "return_freed_memory", lambda: when_returned.append(dense_weights())
    )
    before = dense_weights()
    runner = load_runner(tmp_path, model, variant, threads=1, kernels=kernels)
    assert when_returned == [before]
    assert dense_weights() == before
    assert runner(SAMPLES)["logits"].shape == (20, 3)
