from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from tests.variants import tiny, tiny_conv
from variants.compression.export import export
from variants.compression.quantization.layer import (
    QuantizableLayer,
    convolution_share,
    equal_parameters,
    find_layers,
    is_excluded,
    name_weights,
)
from variants.compression.quantization.sharing import unshare
from variants.model.loading import describe_interface


def encoder() -> nn.TransformerEncoderLayer:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()


def named(network: nn.Module, samples: dict[str, np.ndarray]) -> onnx.ModelProto:
    exported = export(network, samples, describe_interface(network, samples, {}))
    return name_weights(exported, network)


def test_matrices_that_the_exporter_transposed_get_their_names_back() -> None:
    network = encoder()
    samples = {"x": np.random.default_rng(0).standard_normal((4, 5, 8)).astype(np.float32)}
    model = named(network, samples)
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name in ("self_attn.in_proj_weight", "linear1.weight", "linear2.weight"):
        assert np.array_equal(tensors[name], network.get_parameter(name).detach().numpy().T)
    layers, notes = find_layers(model)
    assert [layer.name for layer in layers] == [
        "self_attn.in_proj_weight",
        "self_attn.out_proj",
        "linear1",
        "linear2",
    ]
    assert notes == ()
    onnx.checker.check_model(model)


def test_products_of_two_activations_are_not_layers() -> None:
    samples = {"x": np.random.default_rng(0).standard_normal((4, 5, 8)).astype(np.float32)}
    model = named(encoder(), samples)
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    assert (len(products), len(find_layers(model)[0])) == (6, 4)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(8, 8, bias=False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.inner(torch.relu(self.inner(x))))
        return logits


def test_calls_of_one_layer_are_layers_of_one_name() -> None:
    torch.manual_seed(0)
    network = Tied().eval()
    model = unshare(named(network, dict(tiny.split(4).samples)), equal_parameters(network))
    layers, notes = find_layers(model)
    assert [layer.name for layer in layers] == ["inner", "inner", "head"]
    assert len({layer.weight for layer in layers}) == 3
    assert notes == ()


def test_equal_parameters_are_found_by_shape_and_values() -> None:
    network = nn.ModuleDict({name: nn.Linear(2, 3) for name in ("a", "b", "c")})
    network["b"].load_state_dict(network["a"].state_dict())
    network["d"] = network["a"]
    assert equal_parameters(network) == {
        "a.weight": ["b.weight", "d.weight"],
        "b.weight": ["a.weight", "d.weight"],
        "c.weight": [],
        "d.weight": ["a.weight", "b.weight"],
    }


def test_layers_are_excluded_by_pattern() -> None:
    layer = QuantizableLayer("blocks.0.up", "node", "MatMul", "blocks.0.up.weight")
    assert is_excluded(layer, ("head", "blocks.*"))
    assert not is_excluded(layer, ("head", "blocks.1.*", "Blocks.*"))


def test_convolution_share_counts_multiplications() -> None:
    convolved = 8 * 3 * 9 * 64 + 16 * 8 * 9 * 16 + 8 * 16 * 9 * 16
    share = convolution_share(tiny_conv.network(), tiny_conv.split(3).samples)
    assert share == convolved / (convolved + 8 * 4)
    assert convolution_share(tiny.network(), tiny.split(3).samples) == 0
