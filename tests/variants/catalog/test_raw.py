from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.utils import serialize_byte_tensor

from tests.tensors import Array, array_strategy, assert_equal, sample_array
from variants.catalog.datatype import DATATYPE, NUMPY
from variants.catalog.raw import from_raw, to_raw

shapes = arrays.array_shapes(min_dims=0, min_side=0)
any_array = st.sampled_from(sorted(NUMPY)).flatmap(lambda name: array_strategy(name, shapes))
BYTES = NUMPY["BYTES"]


@given(any_array)
def test_encoded_arrays_are_decoded(array: Array) -> None:
    decoded = from_raw(bytes(to_raw(array)), array.dtype, array.shape)
    assert_equal({"x": decoded}, {"x": array})


@pytest.mark.parametrize("datatype", sorted(NUMPY.keys() - {"BYTES"}))
def test_values_are_little_endian_and_row_major(datatype: str) -> None:
    array = sample_array(datatype, (2, 3))
    assert bytes(to_raw(array)) == array.tobytes()
    assert bytes(to_raw(array.T)) == array.T.tobytes()
    large = np.tile(array, (100, 100))
    assert bytes(to_raw(large.T)) == large.T.tobytes()
    assert array.dtype.itemsize == 1 or array.dtype.newbyteorder("<") == array.dtype


def test_bf16_is_the_upper_half_of_fp32() -> None:
    array = np.array([1.5, -np.inf], np.float32)
    assert bytes(to_raw(array.astype(NUMPY["BF16"]))) == (
        array.tobytes()[2:4] + array.tobytes()[6:8]
    )


@given(array_strategy("BYTES", arrays.array_shapes()))
def test_bytes_are_encoded_as_by_tritonclient(array: Array) -> None:
    assert to_raw(array) == serialize_byte_tensor(array).item()


def test_large_arrays_are_encoded_and_decoded_as_views() -> None:
    array = np.arange(60_000, dtype=np.float32).reshape(200, 300)
    raw = to_raw(array)
    assert np.shares_memory(np.frombuffer(raw, np.uint8), array)
    assert np.shares_memory(from_raw(raw, array.dtype, array.shape), array)


def test_every_datatype_has_its_own_dtype() -> None:
    assert {name: DATATYPE[dtype] for name, dtype in NUMPY.items()} == {n: n for n in NUMPY}


ELEMENT = struct.pack("<I", 2) + b"ab"


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "message"),
    [
        pytest.param("FP32", (2,), bytes(7), r"\[2\] of FP32 takes 8 bytes, not 7", id="too few"),
        pytest.param("BF16", (2,), bytes(5), r"\[2\] of BF16 takes 4 bytes, not 5", id="too many"),
        pytest.param("BOOL", (2,), b"\x01\x02", "must be a byte of 0 or 1", id="2 as a boolean"),
        pytest.param("INT8", (0, 2**62, 4), b"", ".", id="larger than the address space"),
        pytest.param(
            "BYTES",
            (2,),
            bytes(7),
            r"\[2\] of BYTES takes at least 8 bytes, not 7",
            id="no room for the lengths",
        ),
        pytest.param("BYTES", (2**48,), ELEMENT, "takes at least", id="a huge shape"),
        pytest.param(
            "BYTES",
            (2,),
            ELEMENT + b"\0\0",
            "end before the length of element 1",
            id="a truncated length",
        ),
        pytest.param(
            "BYTES",
            (1,),
            ELEMENT[:-1],
            "element 0 declares 2 bytes, but 1 are left",
            id="a truncated element",
        ),
        pytest.param(
            "BYTES",
            (1,),
            b"\xff" * 4 + b"ab",
            "element 0 declares 4294967295 bytes, but 2 are left",
            id="the largest length",
        ),
        pytest.param(
            "BYTES", (1,), ELEMENT + b"c", "1 bytes follow the last of 1 elements", id="extra bytes"
        ),
        pytest.param(
            "BYTES",
            (0,),
            b"c",
            "1 bytes follow the last of 0 elements",
            id="extra bytes after no elements",
        ),
    ],
)
def test_invalid_bytes_are_rejected(
    datatype: str, shape: tuple[int, ...], raw: bytes, message: str
) -> None:
    for content in (raw, memoryview(raw)):
        with pytest.raises(ValueError, match=message):
            from_raw(content, NUMPY[datatype], shape)


@given(st.binary(max_size=24), st.lists(st.integers(0, 3), max_size=3))
def test_any_bytes_are_decoded_exactly_or_rejected(raw: bytes, shape: list[int]) -> None:
    try:
        array = from_raw(raw, BYTES, tuple(shape))
    except ValueError:
        return
    assert to_raw(array) == raw
