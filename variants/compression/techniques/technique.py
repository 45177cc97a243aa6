"""What every compression technique is: parameters that were checked, and one way to apply them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from rich.progress import Progress

from variants.catalog.record import Record
from variants.model.dataset import TrainingData
from variants.model.state import CompressionState, Stage


class Technique(Record, ABC):
    """Makes a model cheaper, or better again. Parameters are fields; `apply` has no options."""

    kind: ClassVar[str]
    accepts: ClassVar[Stage]
    """The last stage of a workpiece that it can still work on."""
    yields: ClassVar[Stage]
    """The stage it takes a workpiece to, if that was not further along."""

    @abstractmethod
    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return another workpiece; the given one, network and all, is left as it was.

        Raises `ValueError` if the network is of a structure that it does not understand.
        """
