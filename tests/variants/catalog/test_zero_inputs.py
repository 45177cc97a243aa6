from __future__ import annotations

from typing import get_args

import pytest

from variants.catalog.catalog import Datatype, Model, TensorSpec
from variants.catalog.datatype import NUMPY
from variants.catalog.zero_inputs import zero_batch, zero_input


def test_every_datatype_of_the_catalog_has_a_numpy_dtype() -> None:
    assert set(NUMPY) == set(get_args(Datatype))


@pytest.mark.parametrize("datatype", NUMPY)
def test_a_zero_input_has_the_datatype_and_shape_of_its_spec(datatype: str) -> None:
    spec = TensorSpec.model_validate({"name": "x", "datatype": datatype, "shape": (-1, 3, -1)})
    array = zero_input(spec, 5)
    assert (array.shape, array.dtype) == ((5, 3, 1), NUMPY[datatype])
    assert {bool(value) for value in array.reshape(-1)} == {False}


def test_bytes_elements_are_empty() -> None:
    model = Model(
        name="m",
        factory="m:f",
        weights_sha256="",
        datasets_sha256="",
        inputs=(TensorSpec(name="text", datatype="BYTES", shape=(-1,)),),
        outputs=(TensorSpec(name="y", datatype="BF16", shape=(-1,)),),
    )
    assert zero_batch(model, 2)["text"].tolist() == [b"", b""]
