"""How modules hold their parts: names, containers, parametrizations, buffers, own operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.nn.utils.parametrize import register_parametrization

from tests.zoo.specimen import CLASSES, VECTORS, Output, specimen


@specimen(VECTORS)
def nested_sequential() -> nn.Module:
    def block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Sequential(nn.Linear(inputs, outputs)), nn.Sequential(nn.ReLU()))

    return nn.Sequential(nn.Sequential(block(8, 16), nn.Identity()), nn.Linear(16, CLASSES))


@specimen(VECTORS)
class Containers(nn.Module):
    """ModuleList, ModuleDict, ParameterList and ParameterDict."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.named = nn.ModuleDict({"relu": nn.ReLU(), "head": nn.Linear(8, CLASSES)})
        self.shifts = nn.ParameterList(torch.zeros(8) for _ in range(2))
        self.scales = nn.ParameterDict({"last": torch.ones(8)})

    def forward(self, features: Tensor) -> Output:
        for layer, shift in zip(self.layers, self.shifts, strict=True):
            features = self.named["relu"](layer(features) + shift)
        return self.named["head"](features * self.scales["last"])


@specimen(VECTORS)
class NamesOfTensors(nn.Module):
    """Parameters with the names of the inputs and outputs of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.zeros(8))
        self.logits = nn.Parameter(torch.zeros(CLASSES, 8))
        self.batch = nn.Linear(8, 8)

    def forward(self, features: Tensor) -> Output:
        return self.batch(features + self.input).relu() @ self.logits.t()


@specimen(VECTORS)
class NamesOfQuantizers(nn.Module):
    """Parameters with the names that a quantizer or another step gives to its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, CLASSES)
        self.body.register_parameter("weight_quantized", nn.Parameter(torch.zeros(16, 16)))
        self.body.register_parameter("weight_scale", nn.Parameter(torch.zeros(16)))
        self.body.register_parameter("weight_half", nn.Parameter(torch.zeros(16, 16)))
        self.body.register_parameter("weight_zero_point", nn.Parameter(torch.zeros(16)))

    def forward(self, features: Tensor) -> Output:
        body: Any = self.body
        hidden = body(features).relu() @ body.weight_quantized * body.weight_scale
        return self.head((hidden @ body.weight_half + body.weight_zero_point).relu())


@specimen(VECTORS)
class NamesOfEachOther(nn.Module):
    """Names that are equal once dots are replaced, or up to a number."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.fc_1 = nn.Linear(8, 16), nn.Linear(16, 16)
        self.fc_weight, self.weight = nn.Parameter(torch.zeros(16, 16)), nn.Linear(16, CLASSES)
        self.val_0 = nn.Parameter(torch.zeros(16))

    def forward(self, features: Tensor) -> Output:
        hidden = self.fc_1(self.fc(features).relu() + self.val_0) @ self.fc_weight
        return self.weight(hidden.relu())


@specimen(VECTORS)
def old_weight_norm() -> nn.Module:
    return nn.Sequential(weight_norm(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, CLASSES))


@specimen(VECTORS)
def new_weight_norm() -> nn.Module:
    normed = parametrizations.weight_norm(nn.Linear(8, 16))
    return nn.Sequential(normed, nn.ReLU(), nn.Linear(16, CLASSES))


@specimen(VECTORS)
def spectral_normalization() -> nn.Module:
    return nn.Sequential(spectral_norm(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, CLASSES))


class Positive(nn.Module):
    """A parametrization that makes weights positive."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.abs()


@specimen(VECTORS)
def own_parametrization() -> nn.Module:
    layer = nn.Linear(8, 16)
    register_parametrization(layer, "weight", Positive())
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(16, CLASSES))


@specimen(VECTORS)
def lazy_layers() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyBatchNorm1d(), nn.LazyLinear(CLASSES))


@specimen(VECTORS)
class Buffers(nn.Module):
    """Persistent and other buffers, and a tensor that is registered nowhere."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.linspace(-1, 1, 8))
        self.register_buffer("scale", torch.linspace(1, 2, 8), persistent=False)
        self.plain = torch.linspace(0, 1, 8)
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, CLASSES)

    def forward(self, features: Tensor) -> Output:
        scaled = (features - self.mean) / self.scale + self.plain
        return self.head(self.body(scaled).relu())


@specimen(VECTORS)
class TransposedMemory(nn.Module):
    """Parameters that are transposed views of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, CLASSES)
        self.body.weight = nn.Parameter(torch.zeros(8, 16).t())
        self.square = nn.Parameter(torch.zeros(32, 32)[::2, ::2])

    def forward(self, features: Tensor) -> Output:
        return self.head((self.body(features).relu() @ self.square).relu())


class HardSign(torch.autograd.Function):
    """The sign, with a gradient of 1 near zero."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        (values,) = ctx.saved_tensors
        passed: Tensor = gradients[0] * (values.abs() < 1)
        return passed


@specimen(VECTORS)
class OwnFunction(nn.Module):
    """An autograd function of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, CLASSES)

    def forward(self, features: Tensor) -> Output:
        return self.head(HardSign.apply(self.body(features)))  # type: ignore[no-untyped-call]


@specimen(VECTORS)
class UnusedLayers(nn.Module):
    """Layers that are never called, and one whose output is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, CLASSES)
        self.never, self.auxiliary = nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, features: Tensor) -> Output:
        hidden = self.body(features).relu()
        self.auxiliary(hidden)
        return self.head(hidden)


@specimen(VECTORS)
def frozen_body() -> nn.Module:
    body = nn.Sequential(nn.Linear(8, 16), nn.ReLU()).requires_grad_(False)
    return nn.Sequential(body, nn.Linear(16, CLASSES))


@specimen(VECTORS)
def frozen() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES)).requires_grad_(False)


@specimen(VECTORS)
def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES)))


@specimen(VECTORS)
class ByKeyword(nn.Module):
    """Calls its layers with keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, CLASSES)

    def forward(self, features: Tensor) -> Output:
        return self.head(input=self.norm(input=self.body(input=features)).relu())


class WithHook(nn.Linear):
    """A Linear whose output a hook doubles."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_forward_hook(_double)


def _double(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return 2 * output


@specimen(VECTORS)
def hooks() -> nn.Module:
    return nn.Sequential(WithHook(8, 16), nn.ReLU(), nn.Linear(16, CLASSES))
