"""Finds networks that are a chain of layers, and runs them in one call for each batch.

network ─▶ traced by torch.fx ─▶ layers in order ─▶ by number of rows a `Chain` of their kernels

A chain has one input and one output, both FP32, and these operations: Linear layers, ReLU,
arithmetic with a scalar, and flattening of the input. Dense Linear layers must be small, because
torch is faster in large ones from some batch size on, and because the chain has its own copy.
"""

from __future__ import annotations

import copy
import logging
import math
import operator
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from variants.model.forward import scores
from variants.runtime.kernels import library, packing
from variants.runtime.kernels.bound import BoundOperator
from variants.runtime.kernels.chain import Chain, Elementwise, Operation, Product
from variants.runtime.sparse.linear import SparseLinear

_LOGGER: Final = logging.getLogger(__name__)

MAX_DENSE_SHARE: Final = 0.1
"""Largest share of the weights of a chain that dense layers may have."""

Layer: TypeAlias = SparseLinear | Product | Elementwise
"""A layer of a chain. The kernel of a `SparseLinear` depends on the number of rows."""

_ARITHMETIC: Final[Mapping[object, Operation]] = {
    operator.add: "add",
    operator.sub: "subtract",
    operator.mul: "multiply",
    operator.truediv: "divide",
    torch.add: "add",
    torch.sub: "subtract",
    torch.mul: "multiply",
    torch.div: "divide",
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "div": "divide",
}
_COMMUTATIVE: Final = ("add", "multiply")
_RELU: Final = (torch.relu, F.relu, "relu")
_CHECKED_ROWS: Final = 3
_NEGLIGIBLE: Final = 1e-6
_MAX_DIFFERENCE: Final = 0.02
"""Share of the largest output. A last bit may change the rounding of INT8 features after it."""


class ChainedNetwork:
    """A network of sparse and small dense layers, with a chain for each range of rows."""

    def __init__(self, layers: list[Layer], shape: tuple[int, ...], *, threads: int) -> None:
        """Make the chains; `shape` is that of the input without its first dimension.

        Raises `ValueError` if a layer does not take what the one before it returns.
        """
        self._shape = shape
        sparse = [layer for layer in layers if isinstance(layer, SparseLinear)]
        self._ends = sorted({rows for layer in sparse for rows in layer.rows})
        beyond = self._ends[-1] + 1 if self._ends else 1
        inputs = math.prod(shape)
        self._chains = [_chain_at(rows, layers, inputs, threads) for rows in (*self._ends, beyond)]

    def run(self, features: NDArray[Any]) -> NDArray[np.float32] | None:
        """Map FP32 `[rows, *shape]` to FP32 `[rows, out]`.

        Returns None where the network itself must compute: if torch is faster in one of the layers
        at this number of rows, and for other features.
        """
        rows = len(features)
        chain = self._chains[bisect_left(self._ends, rows)]
        if (
            chain is None
            or not rows
            or features.dtype != np.float32
            or features.shape[1:] != self._shape
            or not features.flags.c_contiguous
        ):
            return None
        return chain(features.reshape(rows, chain.inputs))


def find_chain(
    network: nn.Module, shape: tuple[int, ...], *, threads: int
) -> ChainedNetwork | None:
    """Return the chain that a network in evaluation mode is; None if it is none.

    `shape` is that of its input FP32 without the first dimension. Elementwise operations and sparse
    layers give the bits of the network; the last bits of dense layers may differ from torch's.
    The chain is compared with the network on a few rows; if they differ, there is none, either.
    """
    is_sparse = any(isinstance(module, SparseLinear) for module in network.modules())
    if not is_sparse or not library.is_compiled() or any(size < 1 for size in shape):
        return None
    layers = _trace(network, len(shape))
    if layers is None or _dense_share(layers) > MAX_DENSE_SHARE:
        return None
    chained = ChainedNetwork(layers, shape, threads=threads)
    difference = _difference(network, chained, shape)
    if not difference <= _MAX_DIFFERENCE:
        _LOGGER.warning(
            "the network runs layer by layer: as a chain of layers, it would differ by %.2g of its "
            "largest output",
            difference,
        )
        return None
    return chained


def _trace(network: nn.Module, ndim: int) -> list[Layer] | None:
    # Tracing runs the code of the network, which may keep what it is given.
    kept: list[object] = [*network.parameters(), *network.buffers()]
    kept += [module for module in network.modules() if isinstance(module, SparseLinear)]
    try:
        copied = copy.deepcopy(network, {id(each): each for each in kept})
        return _layers(copied, _Tracer().trace(copied), is_flat=ndim == 1)
    except Exception:  # the code of the network may raise anything when it is traced
        return None


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, SparseLinear) or super().is_leaf_module(m, module_qualified_name)


def _layers(network: nn.Module, graph: fx.Graph, *, is_flat: bool) -> list[Layer] | None:
    """Return the layers of a graph in which every node reads the one before."""
    layers: list[Layer] = []
    last: fx.Node | None = None
    for node in graph.nodes:
        if node.op == "get_attr":  # read where it is used
            continue
        if node.op == "placeholder":
            if last is not None:
                return None
        elif node.op == "output":
            (result,) = node.args
            is_single = isinstance(result, tuple | list) and len(result) == 1
            return layers if is_flat and last is (result[0] if is_single else result) else None
        elif _flattens(node, last, network):
            is_flat = True
        else:
            layer = _layer(node, last, network)
            if layer is None or not (is_flat or isinstance(layer, Elementwise)):
                return None
            layers += [] if isinstance(layer, nn.Identity) else [layer]
        last = node
    return None


def _layer(node: fx.Node, last: fx.Node | None, network: nn.Module) -> Layer | nn.Identity | None:
    """Return what a node computes from the last one; None if a chain cannot compute it."""
    if node.op != "call_module":
        if node.target in _RELU and node.args == (last,):
            return Elementwise("relu")
        return _arithmetic(node, last, network)
    module = network.get_submodule(str(node.target))
    if node.args != (last,) or node.kwargs:
        return None
    if isinstance(module, SparseLinear):
        return module
    if type(module) is nn.Linear:
        return _dense(module)
    if type(module) is nn.ReLU:
        return Elementwise("relu")
    return nn.Identity() if type(module) in (nn.Identity, nn.Dropout) else None


def _flattens(node: fx.Node, last: fx.Node | None, network: nn.Module) -> bool:
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        is_all = isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)
        return is_all and node.args == (last,)
    return node.target in (torch.flatten, "flatten") and node.args == (last, 1) and not node.kwargs


def _arithmetic(node: fx.Node, last: fx.Node | None, network: nn.Module) -> Elementwise | None:
    operation = _ARITHMETIC.get(node.target)
    if operation is None or len(node.args) != 2 or node.kwargs:
        return None
    left, right = node.args
    if operation in _COMMUTATIVE and right is last:
        left, right = right, left
    if left is not last:
        return None
    scalar = _scalar(right, network)
    return None if scalar is None else Elementwise(operation, scalar)


def _scalar(value: Any, network: nn.Module) -> float | None:
    if isinstance(value, fx.Node) and value.op == "get_attr":
        # Not a tensor that was made while tracing, which may be another one in each call.
        value = dict(network.named_buffers()).get(str(value.target))
    if isinstance(value, Tensor):
        is_scalar = value.numel() == 1 and value.ndim <= 1 and value.dtype == torch.float32
        return value.item() if is_scalar else None
    return float(value) if isinstance(value, int | float) else None


def _dense(linear: nn.Linear) -> Product:
    weight = linear.weight.detach()
    outputs, inputs = weight.shape
    packed = (packing.pack_dense(weight),)
    kernel = BoundOperator("linear_packed", packed, inputs, outputs, "auto")
    return Product(kernel, None if linear.bias is None else linear.bias.detach(), "none")


def _dense_share(layers: list[Layer]) -> float:
    dense = sum(e.kernel.inputs * e.kernel.outputs for e in layers if isinstance(e, Product))
    sparse = sum(e.in_features * e.out_features for e in layers if isinstance(e, SparseLinear))
    return dense / max(1, dense + sparse)


def _chain_at(rows: int, layers: list[Layer], inputs: int, threads: int) -> Chain | None:
    steps: list[Product | Elementwise] = []
    for layer in layers:
        if isinstance(layer, SparseLinear):
            kernel = layer.kernel(rows)
            if not isinstance(kernel, BoundOperator):
                return None
            steps.append(Product(kernel, layer.bias, layer.activation))
        else:
            steps.append(layer)
    return Chain(steps, inputs, threads=threads)


def _difference(network: nn.Module, chained: ChainedNetwork, shape: tuple[int, ...]) -> float:
    """Return the largest difference on a few random rows, as a share of the largest output."""
    generator = torch.Generator("cpu").manual_seed(0)
    size = (_CHECKED_ROWS, *shape)
    features = torch.rand(size, generator=generator, dtype=torch.float32, device="cpu")
    actual = chained.run(features.numpy())
    if actual is None:
        return 0.0
    with torch.inference_mode():
        expected = scores(network, (features,))
    difference = (torch.from_numpy(actual) - expected).abs().max()
    return float(difference / (expected.abs().max() + _NEGLIGIBLE))
