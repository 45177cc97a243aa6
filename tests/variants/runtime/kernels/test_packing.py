from __future__ import annotations

import pytest
import torch

from tests.variants.runtime.kernels import weights
from variants.runtime.kernels.packing import (
    MAX_INPUTS_INT8,
    MAX_INPUTS_SPARSE,
    pack24,
    pack24_int8,
    pack_dense,
    pack_dense_int8,
    pack_sparse,
)


def test_2_4_values_are_interleaved_and_columns_take_two_bits() -> None:
    weight = torch.zeros(33, 8)
    weight[0] = torch.tensor([0, 5, 0, 7, 6, 0, 8, 0])
    weight[32] = torch.tensor([0, 0, 0, 9, 0, 0, 1, 2])
    values, indices = pack24(weight)
    assert values.shape == (2, 8, 2, 32)
    assert indices.shape == (2, 1, 32)
    assert values[0, :2, :, 0].tolist() == [[5, 7], [6, 8]]
    # A single weight is kept with a zero in the first column.
    assert values[1, :2, :, 0].tolist() == [[0, 9], [1, 2]]
    assert int(indices[0, 0, 0]) & 0xFF == 0b10_00_11_01
    assert int(indices[1, 0, 0]) & 0xFF == 0b11_10_11_00


def test_int8_steps_hold_two_groups() -> None:
    quantized = torch.zeros(1, 16, dtype=torch.int8)
    quantized[0] = torch.tensor([0, 5, 0, 7, 6, 0, 8, 0, 1, 2, 0, 0, 0, 0, 3, 4])
    values, indices, scales, sums = pack24_int8(quantized, torch.tensor([0.5]))
    assert values.shape == (1, 1, 4, 32, 4)
    assert values[0, 0, :2, 0].tolist() == [[5, 7, 6, 8], [1, 2, 3, 4]]
    assert [each & 0b1111 for each in indices[0, 0, 0].tolist()] == [
        0b00_01, 0b01_11, 0b10_00, 0b11_10,
    ]  # fmt: skip
    assert scales.tolist() == [0.5]
    assert sums.tolist() == [36]


def test_sparse_weights_are_listed_by_row_and_chunk() -> None:
    weight = torch.zeros(3, 200)
    weight[0, 5], weight[0, 127], weight[0, 128], weight[2, 199] = 1.0, 2.0, 3.0, 4.0
    values, offsets, starts = pack_sparse(weight)
    assert values.tolist() == [1, 2, 3, 4]
    assert offsets.tolist() == [5, 127, 128, 199]
    assert starts.tolist() == [[0, 2, 3], [3, 3, 3], [3, 3, 4]]


def test_columns_up_to_65535_are_kept() -> None:
    weight = torch.zeros(1, MAX_INPUTS_SPARSE)
    weight[0, -1] = 1
    assert int(pack_sparse(weight).offsets[0]) & 0xFFFF == MAX_INPUTS_SPARSE - 1
    with pytest.raises(ValueError, match="columns must fit 16 bits"):
        pack_sparse(torch.zeros(1, MAX_INPUTS_SPARSE + 1))


def test_dense_weights_are_interleaved_and_padded_with_zeros() -> None:
    weight = weights.dense(33, 3)
    packed = pack_dense(weight)
    assert packed.shape == (2, 3, 32)
    assert torch.equal(packed[0], weight[:32].T)
    assert torch.equal(packed[1, :, 0], weight[32])
    assert not packed[1, :, 1:].any()


def test_dense_int8_weights_hold_four_columns_of_each_output() -> None:
    quantized = (torch.arange(33 * 7) % 127).to(torch.int8).reshape(33, 7)
    values, scales, sums = pack_dense_int8(quantized, torch.ones(33))
    assert values.shape == (2, 8, 32, 4)
    assert torch.equal(values[0, 0], quantized[:32, :4])
    assert values[1, 1, 0].tolist() == [*quantized[32, 4:].tolist(), 0]
    assert not values[:, 2:].any()
    assert not values[1, :, 1:].any()
    assert torch.equal(scales, torch.ones(33))
    assert torch.equal(sums, quantized.sum(dim=1))


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="1 groups of 4 hold more than 2 nonzero"):
        pack24(torch.tensor([[1.0, 2.0, 3.0, 0.0]]))
    with pytest.raises(ValueError, match="`in` a multiple of 4"):
        pack24(torch.zeros(2, 6))
    with pytest.raises(ValueError, match=r"expected a weight \[out, in\] of torch.float32"):
        pack24(torch.zeros(2, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match="from -127 to 127"):
        pack24_int8(torch.tensor([[-128, 0, 0, 0]], dtype=torch.int8), torch.ones(1))
    with pytest.raises(ValueError, match=r"expected scales FP32 \[1\]"):
        pack24_int8(torch.zeros(1, 4, dtype=torch.int8), torch.ones(2))
    with pytest.raises(ValueError, match="overflow 32 bits"):
        pack24_int8(torch.zeros(1, MAX_INPUTS_INT8 + 4, dtype=torch.int8), torch.ones(1))
    with pytest.raises(ValueError, match="from -127 to 127"):
        pack_dense_int8(torch.tensor([[-128]], dtype=torch.int8), torch.ones(1))
    with pytest.raises(ValueError, match="overflow 32 bits"):
        pack_dense_int8(torch.zeros(1, MAX_INPUTS_INT8 + 1, dtype=torch.int8), torch.ones(1))
