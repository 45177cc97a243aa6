"""The networks of the zoo, by family. Importing this package registers them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tests.zoo.networks import (
    attention,
    convolution,
    datatypes,
    extremes,
    interfaces,
    layers,
    modules,
    recurrent,
    sharing,
    text,
)
from tests.zoo.specimen import SPECIMENS, Specimen

__all__ = ["FAMILIES", "SPECIMENS", "chosen"]

FAMILIES: Final = (
    layers, convolution, attention, recurrent, text, sharing, modules, interfaces, datatypes,
    extremes,
)  # fmt: skip


def chosen(words: Sequence[str]) -> Mapping[str, Specimen]:
    """Return the specimens whose names contain one of the words; all without words."""
    return {
        name: each
        for name, each in SPECIMENS.items()
        if not words or any(word in name for word in words)
    }
