from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from tests.variants import tiny
from variants.export import export
from variants.model import describe
from variants.runners.onnx import OnnxRunner

SAMPLES = tiny.split(30).samples


def _export(network: nn.Module) -> bytes:
    exported = export(network, SAMPLES, *describe(network, SAMPLES))
    model: bytes = exported.SerializeToString(deterministic=True)
    return model


@pytest.mark.parametrize("count", [1, 2, 30])
def test_the_exported_model_answers_as_torch_does_at_any_batch_size(count: int) -> None:
    network = tiny.network()
    outputs = OnnxRunner(_export(network), threads=1)({"input": SAMPLES[:count]})
    assert outputs.keys() == {"logits"}
    np.testing.assert_allclose(outputs["logits"], tiny.answers(network, SAMPLES[:count]), atol=1e-6)


def test_equal_networks_give_equal_bytes_that_tell_no_paths() -> None:
    model = _export(tiny.network())
    assert model == _export(tiny.network())
    assert not re.search(rb"\.py|site-packages|stack_trace", model)


class _Forgetful(nn.Module):
    """Answers differently each time, so that no export of it can be right."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + torch.rand_like(features)


def test_a_model_that_answers_differently_after_export_is_refused() -> None:
    with pytest.raises(ValueError, match="the exported model differs from torch by"):
        _export(_Forgetful())
