"""Weights and inputs of other datatypes than FP32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.zoo.specimen import (
    CLASSES,
    IMAGES,
    VECTORS,
    Data,
    Output,
    images,
    of_type,
    set_random_weights,
    specimen,
    vectors,
)


class Converted(nn.Module):
    """Computes in the datatype of its weights and returns FP32 scores for FP32 inputs."""

    def __init__(self, body: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.body, self._dtype = body.to(dtype), dtype

    def forward(self, features: Tensor) -> Output:
        return self.body(features.to(self._dtype)).float()


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, CLASSES)
    )


@specimen(VECTORS)
def fp16_weights() -> nn.Module:
    return Converted(_mlp(), torch.float16)


@specimen(VECTORS)
def bf16_weights() -> nn.Module:
    return Converted(_mlp(), torch.bfloat16)


@specimen(VECTORS)
def fp64_weights() -> nn.Module:
    return Converted(_mlp(), torch.float64)


@specimen(Data(of_type(vectors, "float16")))
def fp16_throughout() -> nn.Module:
    return _mlp().half()


@specimen(Data(of_type(vectors, "float64")))
def fp64_throughout() -> nn.Module:
    return _mlp().double()


@specimen(IMAGES)
def fp16_convolution() -> nn.Module:
    return Converted(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, CLASSES),
        ),
        torch.float16,
    )  # fmt: skip


@specimen(VECTORS)
class MixedPrecision(nn.Module):
    """A trunk in BF16 and a head in FP32."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 24), nn.ReLU()).bfloat16()
        self.head = nn.Linear(24, CLASSES)

    def forward(self, features: Tensor) -> Output:
        return self.head(self.trunk(features.bfloat16()).float())


class FromIntegers(nn.Module):
    """Converts numbers of any datatype to FP32 and scales them."""

    def __init__(self, body: nn.Module, scale: float) -> None:
        super().__init__()
        self.body, self._scale = body, scale

    def forward(self, values: Tensor) -> Output:
        return self.body(values.float() * self._scale)


@specimen(Data(of_type(images, "uint8", 40.0)))
def byte_images() -> nn.Module:
    return FromIntegers(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, CLASSES)), 1 / 255
    )


@specimen(Data(of_type(vectors, "int32", 10.0)))
def integer_features() -> nn.Module:
    return FromIntegers(_mlp(), 0.1)


@specimen(Data(of_type(vectors, "int8", 30.0)))
def narrow_integers() -> nn.Module:
    return FromIntegers(_mlp(), 1 / 30)


@specimen(Data(of_type(vectors, "bool", 1.0)))
class Flags(nn.Module):
    """Boolean features: all are true, and a learned mask selects among them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _mlp()

    def forward(self, flags: Tensor) -> Output:
        return self.body(torch.where(flags, 1.0, -1.0))


@specimen(VECTORS, prepare=lambda network: _with_integers(network))
class IntegerParameter(nn.Module):
    """A parameter of integers, which cannot be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.order = nn.Parameter(torch.arange(8), requires_grad=False)
        self.body = _mlp()

    def forward(self, features: Tensor) -> Output:
        return self.body(features[:, self.order])


def _with_integers(network: nn.Module) -> None:
    set_random_weights(network)
    network.get_parameter("order").copy_(torch.tensor([3, 1, 0, 2, 7, 6, 5, 4]))


@specimen(VECTORS)
class ComplexInside(nn.Module):
    """A Fourier transform, whose values are complex."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 16), nn.Linear(16, CLASSES)

    def forward(self, features: Tensor) -> Output:
        return self.head(self.body(torch.fft.rfft(features).abs()).relu())
