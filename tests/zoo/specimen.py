"""Specimens: small networks with random samples, each of a kind that users bring.

    network class or function ─▶ @specimen(data) ─▶ Specimen in SPECIMENS, by name

A specimen has weights as after training: other than those of its factory, and of a size at which
the answers differ between samples.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from variants.model.dataset import Axes, Datasets, Samples, Split
from variants.model.forward import tensors

Output: TypeAlias = Any
"""What a `forward` returns. Modules return `Any` when they are called."""

Draw: TypeAlias = Callable[[np.random.Generator, int], Samples]
"""Returns this number of samples."""

Make = TypeVar("Make", bound=Callable[[], nn.Module])

CLASSES: Final = 3
TRAIN, VALIDATION, TEST = 48, 48, 64
"""Samples of each split. The largest batch is the whole test split."""
_BUILT_WITH, _TRAINED = 1, 2
"""Seeds of the network that the factory builds, and of the weights."""


@dataclass(frozen=True)
class Data:
    """How the samples of a network are drawn."""

    draw: Draw
    axes: Axes = field(default_factory=dict)

    def datasets(self) -> Datasets:
        """Return three splits with random labels."""
        train, validation, test = (
            self._split(np.random.default_rng(seed), size)
            for seed, size in enumerate((TRAIN, VALIDATION, TEST))
        )
        return Datasets(train, validation, test, axes=self.axes)

    def _split(self, random: np.random.Generator, size: int) -> Split:
        return Split(self.draw(random, size), random.integers(0, CLASSES, size))


@dataclass(frozen=True)
class Specimen:
    """A network that users may bring, with its data."""

    name: str
    make: Callable[[], nn.Module]
    """Returns the network with the initial weights that torch gives it."""
    data: Data
    prepare: Callable[[nn.Module], None] | None
    """Sets the trained weights in place; by default they are random."""
    jumps: bool
    """Whether answers are not continuous in the weights, as with routing to an expert."""

    def network(self) -> nn.Module:
        """Return what the `network()` of the project returns."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_BUILT_WITH)
            return self.make()

    def trained(self) -> nn.Module:
        """Return the network with trained weights, in evaluation mode."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(_TRAINED)
            network = self.make().eval()
            if any(is_lazy(parameter) for parameter in network.parameters()):
                network(*tensors(self.data.draw(np.random.default_rng(0), 2)))
            (self.prepare or set_random_weights)(network)
        return network


SPECIMENS: Final[dict[str, Specimen]] = {}
"""All specimens by name. The modules of `tests.zoo.networks` fill it when they are imported."""


def specimen(
    data: Data,
    *,
    prepare: Callable[[nn.Module], None] | None = None,
    jumps: bool = False,
) -> Callable[[Make], Make]:
    """Register a network by the name of its class or function; the arguments are its fields."""

    def register(make: Make) -> Make:
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", make.__name__).lower().replace("_", "-")
        if words in SPECIMENS:
            raise ValueError(f"there are two specimens {words!r}")
        SPECIMENS[words] = Specimen(words, make, data, prepare, jumps)
        return make

    return register


def set_random_weights(network: nn.Module) -> None:
    """Give every floating-point parameter and running statistic a random value, in place.

    Initial weights of torch are so small that the biases decide the answers of a deep network.
    """
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_floating_point() and parameter.numel():
                parameter.copy_(_random_weight(module, name, parameter))
        if isinstance(module, _BatchNorm) and module.running_var is not None:
            nn.init.normal_(module.running_mean, std=0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def _random_weight(module: nn.Module, name: str, parameter: Tensor) -> Tensor:
    random = torch.randn(parameter.shape)
    if parameter.ndim >= 2:
        is_table = isinstance(module, nn.Embedding | nn.EmbeddingBag)
        inputs = 1 if is_table else parameter[0].numel()
        return random * (1.3 / math.sqrt(max(1, inputs)))
    if name.endswith("weight"):  # of a normalization
        return 1 + 0.25 * random
    return 0.2 * random


def _normal(*shape: int) -> Draw:
    def draw(random: np.random.Generator, size: int) -> Samples:
        return {"input": random.standard_normal((size, *shape)).astype(np.float32)}

    return draw


def tokens(random: np.random.Generator, size: int) -> Samples:
    """Draw texts of 6 ids below 20."""
    return {"ids": random.integers(0, 20, (size, 6))}


def padded(random: np.random.Generator, size: int) -> Samples:
    """Draw texts of 6 ids with a mask that is 1 at the first 2 to 6 of them."""
    lengths = random.integers(2, 7, (size, 1))
    return {**tokens(random, size), "mask": (np.arange(6) < lengths).astype(np.int64)}


def of_type(draw: Draw, dtype: str, scale: float = 1.0) -> Draw:
    """Return a function that draws the same samples times `scale` in another datatype."""

    def converted(random: np.random.Generator, size: int) -> Samples:
        drawn = draw(random, size)
        return {name: (array * scale).astype(dtype) for name, array in drawn.items()}

    return converted


def together(**draws: Draw) -> Draw:
    """Return a function that draws several inputs with the given names."""

    def draw(random: np.random.Generator, size: int) -> Samples:
        return {name: next(iter(one(random, size).values())) for name, one in draws.items()}

    return draw


vectors, images, sequences = _normal(8), _normal(3, 8, 8), _normal(6, 8)

VECTORS: Final = Data(vectors)
IMAGES: Final = Data(images)
SIGNALS: Final = Data(_normal(4, 16))
VOLUMES: Final = Data(_normal(2, 4, 4, 4))
TOKENS: Final = Data(tokens, {"ids": {1: "tokens"}})
FIXED_TOKENS: Final = Data(tokens)
PADDED: Final = Data(padded, {"ids": {1: "tokens"}, "mask": {1: "tokens"}})
SEQUENCES: Final = Data(sequences, {"input": {1: "steps"}})
FIXED_SEQUENCES: Final = Data(sequences)
