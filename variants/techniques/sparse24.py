"""2:4 sparsity by magnitude: of every 4 consecutive weights of a row, the 2 largest stay."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from rich.progress import Progress
from torch import nn

from variants.dataset import Material
from variants.linear24 import GROUP, mask24
from variants.plan import linears
from variants.record import Record
from variants.workpiece import Stage, Workpiece


class Sparse24(Record):
    """Masks every Linear it can, to be stored packed; recover afterwards keeps the mask.

    A layer stays dense, and the notes say why, if its inputs are no multiple of 4 (padding would
    store columns that do not exist) or if it has fewer than `min_rows` outputs: a classifier's
    head holds under 1 % of the weights, decides every answer, and is below the 16 rows that
    sparse matrix units take at least.
    """

    kind: ClassVar[str] = "sparse-2:4"
    accepts: ClassVar[Stage] = Stage.MASKED
    yields: ClassVar[Stage] = Stage.MASKED

    min_rows: int = Field(default=16, ge=1)

    def apply(self, workpiece: Workpiece, material: Material, progress: Progress) -> Workpiece:
        """Return the workpiece with masked weights."""
        network = copy.deepcopy(workpiece.network)
        masks, notes = dict(workpiece.masks), list(workpiece.notes)
        packed = set(workpiece.packed)
        for name, linear in linears(network).items():
            if reason := self._ineligible(linear):
                notes.append(f"layer {name} stays dense: {reason}")
                continue
            mask = mask24(linear.weight.detach())
            with torch.no_grad():
                linear.weight.mul_(mask)
            masks[f"{name}.weight"] = mask
            packed.add(name)
        if not packed:
            raise ValueError(f"{self.kind} found no layer to work on: {'; '.join(notes)}")
        return replace(
            workpiece, network=network, masks=masks, packed=frozenset(packed), notes=tuple(notes)
        )

    def _ineligible(self, linear: nn.Linear) -> str:
        if linear.in_features % GROUP:
            return f"{linear.in_features} inputs are no multiple of {GROUP}"
        if linear.out_features < self.min_rows:
            return f"{linear.out_features} outputs are fewer than min_rows = {self.min_rows}"
        return ""
