from __future__ import annotations

from contextlib import suppress

import pytest
import torch

from tests.variants import tiny_torch_encoder as encoder
from variants.model.fast_path import without_fast_path
from variants.model.forward import outputs, tensors


def test_every_layer_is_called() -> None:
    network, called = encoder.network(), []
    layer = network.encoder.layers[0].get_submodule("linear1")
    layer.register_forward_pre_hook(lambda *_: called.append(True))
    with torch.inference_mode():
        outputs(network, tensors(encoder.split(5).samples))
    assert called


@pytest.mark.parametrize("before", [True, False])
def test_the_setting_is_restored_after_an_error(before: bool) -> None:
    torch.backends.mha.set_fastpath_enabled(before)
    try:
        with suppress(KeyError), without_fast_path():
            assert not torch.backends.mha.get_fastpath_enabled()
            raise KeyError
        assert torch.backends.mha.get_fastpath_enabled() == before
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
