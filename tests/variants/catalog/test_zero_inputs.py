from __future__ import annotations

from typing import get_args

import pytest

from variants.catalog.catalog import Datatype, Model, TensorSpec
from variants.catalog.datatype import NUMPY
from variants.catalog.zero_inputs import zero_batch, zero_input


def test_the_catalog_knows_every_datatype_that_arrays_can_have() -> None:
    assert set(NUMPY) == set(get_args(Datatype))


@pytest.mark.parametrize("datatype", NUMPY)
def test_a_blank_input_is_of_the_datatype_and_shape_that_the_model_takes(datatype: str) -> None:
    spec = TensorSpec.model_validate({"name": "x", "datatype": datatype, "shape": (-1, 3, -1)})
    array = zero_input(spec, 5)
    assert (array.shape, array.dtype) == ((5, 3, 1), NUMPY[datatype])
    assert {bool(value) for value in array.reshape(-1)} == {False}


def test_a_blank_element_of_bytes_is_an_empty_one() -> None:
    model = Model(
        name="m",
        factory="m:f",
        weights_sha256="",
        datasets_sha256="",
        inputs=(TensorSpec(name="text", datatype="BYTES", shape=(-1,)),),
        outputs=(TensorSpec(name="y", datatype="BF16", shape=(-1,)),),
    )
    assert zero_batch(model, 2)["text"].tolist() == [b"", b""]
