"""The interface of a compression technique: validated parameters and `apply`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from rich.progress import Progress

from variants.catalog.record import Record
from variants.model.dataset import TrainingData
from variants.model.state import CompressionState, Stage


class Technique(Record, ABC):
    """One compression step: changes the network, its masks or its graph.

    The fields are the parameters that a recipe sets. `apply` takes no others.
    """

    kind: ClassVar[str]
    """Name of the technique in recipes."""
    accepts: ClassVar[Stage]
    """Latest stage of a state that the technique can be applied to."""
    yields: ClassVar[Stage]
    """Stage after the technique, unless the state was at a later stage already."""
    keeps_outputs: ClassVar[bool] = False
    """Whether the network computes the same outputs as before, except for rounding in FP32."""

    @abstractmethod
    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the compressed state; the given state and its network are not modified.

        Raises `ValueError` if the technique does not support the structure of the network.
        """
