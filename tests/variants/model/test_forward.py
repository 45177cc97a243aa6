from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.variants import tiny, tiny_conv, two_inputs
from variants.model.forward import all_scores, batches, outputs, scores, tensors


class _Constant(nn.Module):
    """Takes no inputs and returns a constant."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self) -> object:
        return self.value


def test_tensors_share_the_memory_of_writable_arrays() -> None:
    samples = two_inputs.split(4).samples
    ids, mask = tensors(samples)
    assert ids.data_ptr() == samples["ids"].ctypes.data
    np.testing.assert_array_equal(mask, samples["mask"])


def test_other_arrays_are_copied_without_warnings() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    received = np.frombuffer(array.tobytes(), np.float32).reshape(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted = tensors({"received": received, "strided": array[::-1, ::2]})
    np.testing.assert_array_equal(converted[0], array)
    np.testing.assert_array_equal(converted[1], array[::-1, ::2])


def test_the_first_output_is_the_scores() -> None:
    first, second = torch.ones(2, 3), torch.zeros(2, 5)
    for value in (first, (first,), (first, second), [first, second]):
        assert scores(_Constant(value), ()) is first
    assert outputs(_Constant((first, second)), ()) == (first, second)


@pytest.mark.parametrize(
    ("value", "got"),
    [({"logits": torch.ones(2)}, "dict"), ((torch.ones(2), None), "tuple"), (None, "NoneType")],
)
def test_other_outputs_are_rejected(value: object, got: str) -> None:
    with pytest.raises(ValueError, match=f"a tensor of scores, or a tuple of tensors .*got {got}"):
        outputs(_Constant(value), ())


def test_batches_contain_every_sample_once_and_in_order() -> None:
    samples = two_inputs.split(1100).samples
    pairs = list(batches(samples, 500))
    assert [len(ids) for ids, _ in pairs] == [500, 500, 100]
    for index, array in enumerate(samples.values()):
        np.testing.assert_array_equal(torch.cat([batch[index] for batch in pairs]), array)


def test_all_scores_evaluates_the_network_in_evaluation_mode() -> None:
    network, samples = tiny_conv.network(), tiny_conv.split(600).samples
    expected = all_scores(network, samples)
    before = network.state_dict()["stem_norm.running_mean"].clone()
    assert torch.equal(all_scores(network.train(), samples), expected)
    assert expected.shape == (600, tiny_conv.CLASSES)
    assert not network.training
    assert torch.equal(network.state_dict()["stem_norm.running_mean"], before)
    alone = all_scores(network, {"input": samples["input"][:1]})
    torch.testing.assert_close(alone, expected[:1], atol=1e-5, rtol=0)
    assert all_scores(tiny.network(), tiny.split(3).samples).shape == (3, tiny.CLASSES)


@dataclass
class Output:
    loss: Tensor
    logits: Tensor


@pytest.mark.parametrize(
    ("returned", "described"),
    [
        ({"logits": torch.ones(1, 3)}, "dict with the keys logits"),
        (Output(torch.ones(1), torch.ones(1, 3)), "Output with the fields loss, logits"),
        ((torch.ones(1, 3), None), "tuple of Tensor, NoneType"),
        ((), "tuple of nothing"),
        (None, "NoneType"),
    ],
)
def test_what_is_returned_instead_of_tensors_is_named(returned: object, described: str) -> None:
    class Returning(nn.Module):
        def forward(self, _: Tensor) -> object:
            return returned

    with pytest.raises(ValueError, match=f"must return a tensor of scores, .* got {described}"):
        outputs(Returning(), (torch.ones(1, 8),))
