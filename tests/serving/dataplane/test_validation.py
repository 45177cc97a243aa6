from __future__ import annotations

import numpy as np
import pytest

from serving.dataplane.validation import Fit, ModelTensors
from serving.errors import InvalidRequest
from variants.catalog.catalog import Model, TensorSpec

TEXT = Model(
    name="text",
    factory="tests.serving.dataplane.test_validation:none",
    weights_sha256="",
    datasets_sha256="",
    inputs=(
        TensorSpec(name="ids", datatype="INT64", shape=(-1, -1)),
        TensorSpec(name="mask", datatype="INT64", shape=(-1, -1)),
        TensorSpec(name="context", datatype="INT64", shape=(-1, -1)),
    ),
    outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, 2)),),
    axes={"ids": {1: "tokens"}, "mask": {1: "tokens"}, "context": {1: "words"}},
)


def check(ids: int, mask: int, context: int) -> Fit:
    sizes = {"ids": ids, "mask": mask, "context": context}
    inputs = {name: np.zeros((3, size), np.int64) for name, size in sizes.items()}
    return ModelTensors(TEXT, max_batch=8).check(inputs, ())


def test_dimensions_with_the_same_name_must_have_the_same_size() -> None:
    with pytest.raises(
        InvalidRequest, match=r"size of 'tokens' must be the same for all inputs, got ids 5, mask 4"
    ):
        check(ids=5, mask=4, context=5)


def test_dimensions_with_different_names_may_differ() -> None:
    assert check(ids=5, mask=5, context=4).size == 3
