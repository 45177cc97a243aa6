from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.errors import InvalidRequest
from serving.protocol.http.codec import parse_request
from tests.tensors import Array, assert_equal

small_shapes = arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3).map(tuple)


@st.composite
def nestings(draw: st.DrawFn) -> tuple[list[Any], tuple[int, ...]]:
    """Return nested values, often changed in one place, and a shape that often matches them."""
    shape = draw(small_shapes)
    data = np.arange(math.prod(shape)).reshape(shape).tolist()
    if draw(st.booleans()):
        part = data
        while part and isinstance(part[-1], list) and draw(st.booleans()):
            part = part[draw(st.sampled_from([0, -1]))]
        at = draw(st.integers(0, len(part)))
        part[at : at + draw(st.integers(0, 1))] = draw(
            st.lists(st.sampled_from([7, [], [7], [[7]], [7, 7]]), max_size=2)
        )
    return data, draw(st.just(shape) | st.just((len(data), *shape[1:])) | small_shapes)


def by_numpy(data: list[Any], shape: tuple[int, ...]) -> Array | None:
    """Return the array that numpy makes of flat or matching nested values, else None."""
    try:
        array = np.array(data, np.float32)
    except ValueError:
        return None
    visible = shape[: shape.index(0) + 1] if 0 in shape else shape
    if array.shape != visible and (array.ndim != 1 or array.size != math.prod(shape)):
        return None
    return array.reshape(shape)


@settings(max_examples=500)
@given(nestings())
def test_nested_data_is_read_as_numpy_reads_it_or_rejected(
    nesting: tuple[list[Any], tuple[int, ...]],
) -> None:
    data, shape = nesting
    expected = by_numpy(data, shape)
    document = {"name": "x", "datatype": "FP32", "shape": shape, "data": data}
    body = orjson.dumps({"inputs": [document]})
    if expected is None:
        with pytest.raises(InvalidRequest, match="input 'x': "):
            parse_request(body, None)
    else:
        assert_equal(parse_request(body, None).inputs, {"x": expected})
