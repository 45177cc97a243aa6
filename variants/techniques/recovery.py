"""Win back accuracy after a technique: a short fine-tuning that respects its masks."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import ClassVar

from rich.progress import Progress

from variants.dataset import Material
from variants.training import Schedule, fit
from variants.workpiece import Stage, Workpiece


class Recover(Schedule):
    """Trains on the train split with cross-entropy; weights that are masked stay zero."""

    kind: ClassVar[str] = "recover"
    accepts: ClassVar[Stage] = Stage.MASKED
    yields: ClassVar[Stage] = Stage.FREE

    def apply(self, workpiece: Workpiece, material: Material, progress: Progress) -> Workpiece:
        """Return the workpiece with trained weights."""
        network = copy.deepcopy(workpiece.network)
        fit(network, material.train, self, progress, masks=workpiece.masks, label="recovery")
        return replace(workpiece, network=network)
