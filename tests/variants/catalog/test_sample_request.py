from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.variants import tiny, tiny_conv, two_inputs
from variants.catalog.catalog import Model
from variants.catalog.sample_request import read_inputs, sample_path, write_sample, zeros
from variants.model.dataset import Samples
from variants.model.state import Interface


def _written(folder: Path, interface: Interface, samples: Samples) -> list[dict[str, Any]]:
    model = Model(
        name="m",
        factory="m:f",
        weights_sha256="",
        datasets_sha256="",
        inputs=interface.inputs,
        outputs=interface.outputs,
    )
    write_sample(folder, model, samples)
    request = json.loads(sample_path(folder).read_text())
    assert request.keys() == {"inputs"}
    inputs: list[dict[str, Any]] = request["inputs"]
    return inputs


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (tiny, [("input", "FP32", [1, 8])]),
        (tiny_conv, [("input", "FP32", [1, 3, 8, 8])]),
        (two_inputs, [("ids", "INT64", [1, 12]), ("mask", "INT64", [1, 12])]),
    ],
    ids=["numbers", "images", "texts"],
)
def test_the_request_contains_the_first_sample_of_every_input(
    tmp_path: Path, kind: Any, expected: list[tuple[str, str, list[int]]]
) -> None:
    samples = kind.split(5, seed=7).samples
    inputs = _written(tmp_path, kind.state().interface, samples)
    assert [(one["name"], one["datatype"], one["shape"]) for one in inputs] == expected
    for one in inputs:
        array = samples[one["name"]]
        decoded = np.array(one["data"], array.dtype).reshape(one["shape"])
        np.testing.assert_array_equal(decoded, array[:1])


def test_integers_are_written_as_integers(tmp_path: Path) -> None:
    inputs = _written(tmp_path, two_inputs.state().interface, two_inputs.split(1).samples)
    assert all(isinstance(value, int) for one in inputs for value in one["data"])


def test_the_example_is_read_if_it_fits_the_model_and_is_zeros_otherwise(tmp_path: Path) -> None:
    interface = tiny.state().interface
    written = _written(tmp_path, interface, tiny.split(1, seed=7).samples)
    model = Model(
        name="m",
        factory="m:f",
        weights_sha256="",
        datasets_sha256="",
        inputs=interface.inputs,
        outputs=interface.outputs,
    )
    assert any(written[0]["data"])
    assert read_inputs(tmp_path, model) == written
    written[0]["data"].pop()
    for text in (json.dumps({"inputs": written}), '{"inputs": 3}', "[]", "nonsense"):
        sample_path(tmp_path).write_text(text)
        assert read_inputs(tmp_path, model) == zeros(model)
