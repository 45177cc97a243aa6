"""Fake quantization: a torch network that computes like its INT8 graph and can be trained.

    graph ─▶ activation grids ─▶ simulate_quantization(network, ...) ─▶ training ─▶ new graph

Quantization-aware training after Jacob et al. 2017 (arXiv:1712.05877), section 3. The forward pass
rounds values to the grid. The backward pass treats rounding as the identity inside the grid's
range and as a constant outside. Sums of products are exact, as in `OnnxRunner`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from variants.compression.quantization.embedding import MAX_CODE
from variants.compression.quantization.layer import QUANTIZED_SUFFIX, layer_name
from variants.compression.quantization.writing import WeightFormat

_MAX_REDUCED_CODE = 64
"""Largest code of a 7-bit weight; onnxruntime's quantizer uses -64 to 64."""
_DEQUANTIZE = "DequantizeLinear"


@dataclass(frozen=True)
class Grid:
    """The 256 numbers `scale * (code - zero_point)`, codes 0 to 255."""

    scale: float
    zero_point: int


def read_grids(graph: bytes) -> dict[str, Grid | None]:
    """Return the input grid of each INT8 layer, by the layer's name.

    The grid is None if the graph computes it in each run, and for embeddings, whose inputs are
    indices.
    """
    proto = onnx.load_model_from_string(graph).graph
    tensors = {tensor.name: tensor for tensor in proto.initializer}
    makers = {output: node for node in proto.node for output in node.output}
    grids: dict[str, Grid | None] = {}
    for node in proto.node:
        dequantized = [makers.get(name) for name in node.input]
        stored = [d.input[0] if d and d.op_type == _DEQUANTIZE else "" for d in dequantized]
        for name in (*node.input, *stored[1:2]):
            tensor = tensors.get(name)
            if tensor is None or not name.endswith(QUANTIZED_SUFFIX) or len(tensor.dims) < 2:
                continue
            if node.op_type == _DEQUANTIZE:
                continue
            first = dequantized[0]
            grid = _read_grid(first, tensors) if first is not None and name in stored else None
            layer = layer_name(name.removesuffix(QUANTIZED_SUFFIX))
            grids[layer] = _union(grids.get(layer, grid), grid)
    return grids


def _union(first: Grid | None, second: Grid | None) -> Grid | None:
    """Return a grid over the ranges of both, for a layer that is called with both."""
    if first is None or second is None or first == second:
        return second
    low = min(each.scale * -each.zero_point for each in (first, second))
    high = max(each.scale * (255 - each.zero_point) for each in (first, second))
    scale = (high - low) / 255
    return Grid(scale, round(-low / scale))


def _read_grid(dequantize: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> Grid:
    scale, zero_point = (numpy_helper.to_array(tensors[name]) for name in dequantize.input[1:3])
    return Grid(float(scale), int(zero_point))


@contextmanager
def simulate_quantization(
    network: nn.Module, grids: Mapping[str, Grid | None], weight_format: WeightFormat
) -> Iterator[None]:
    """Make the layers in `grids` compute with rounded weights and inputs, inside the context.

    Each call rounds the current weights to a symmetric grid, so the grid follows the training.
    Inputs are rounded to the given grid, or, if that is None, to a grid over the batch's range.
    Biases and the outputs of convolutions are not rounded. Only Linear, Conv and Embedding modules
    are changed; a module that holds several matrices is not.
    """
    modules = dict(network.named_modules())
    with ExitStack() as stack:
        for name, grid in grids.items():
            module = modules.get(name)
            if isinstance(module, nn.Embedding):
                module.__dict__["forward"] = partial(_quantized_embedding, module.forward)
            elif isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                module.__dict__["forward"] = partial(
                    _quantized_product, module, grid, weight_format
                )
            else:
                continue
            stack.callback(module.__dict__.pop, "forward")
        yield


def round_weight(weight: Tensor, weight_format: WeightFormat) -> Tensor:
    """Return a weight, FP32 `[outputs, ...]`, rounded to the grid that a graph stores.

    The gradient passes through unchanged.
    """
    largest = _MAX_REDUCED_CODE if weight_format.reduce_range else MAX_CODE
    if not weight_format.per_channel:
        scale = _scale(weight.detach().abs().max(), largest)
        return torch.fake_quantize_per_tensor_affine(weight, float(scale), 0, -largest, largest)
    scales = _scale(weight.detach().abs().flatten(1).amax(1), largest)
    zero_points = torch.zeros(len(weight), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zero_points, 0, -largest, largest)


def _quantized_product(
    module: nn.Module, grid: Grid | None, weight_format: WeightFormat, input: Tensor
) -> Tensor:
    assert isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    # Training may use BF16, which is no finer than the grids and would shift their points.
    with torch.autocast("cpu", enabled=False):
        inputs = input.float()
        grid = grid or _grid(inputs.detach())
        rounded = torch.fake_quantize_per_tensor_affine(inputs, grid.scale, grid.zero_point, 0, 255)
        weight = round_weight(module.weight, weight_format)
        if isinstance(module, nn.Linear):
            return F.linear(rounded, weight, module.bias)
        convolved: Tensor = module._conv_forward(rounded, weight, module.bias)
        return convolved


def _quantized_embedding(look_up: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
    rows = look_up(input)
    scales = _scale(rows.detach().abs().amax(-1, keepdim=True), MAX_CODE)
    rounded = torch.round(rows / scales) * scales
    return rows + (rounded - rows).detach()


def _grid(inputs: Tensor) -> Grid:
    """Return the grid of ONNX's DynamicQuantizeLinear: over the inputs' range, extended to 0."""
    low, high = min(0.0, float(inputs.min())), max(0.0, float(inputs.max()))
    scale = (high - low) / 255 or 1.0
    return Grid(scale, round(-low / scale))


def _scale(largest: Tensor, steps: int) -> Tensor:
    return torch.where(largest > 0, largest / steps, 1.0)
