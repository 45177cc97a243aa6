"""Win back accuracy after a technique: a short fine-tuning that respects its masks."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace
from typing import ClassVar

from pydantic import Field
from rich.progress import Progress

from variants.compression.techniques.technique import Technique
from variants.model.dataset import TrainingData
from variants.model.state import CompressionState, Stage
from variants.model.training import Schedule, Teacher, fit


class Recover(Technique, Schedule):
    """Trains on the train split with cross-entropy; weights that are masked stay zero.

    With `distill` above 0 that share of the loss is how far the answers are from the dense
    network's, both softened by `temperature` (Hinton, Vinyals and Dean 2015, arXiv:1503.02531).

    After a step that made a graph, as `int8` does, the network is trained as that step simulates
    its graph, and the step is then applied anew: after `int8` this is quantization-aware training.
    """

    kind: ClassVar[str] = "recover"
    accepts: ClassVar[Stage] = Stage.GRAPH
    yields: ClassVar[Stage] = Stage.FREE

    distill: float = Field(default=0.0, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0)

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the workpiece with trained weights, and with a graph made from them if it had one.

        Raises `ValueError` if the graph was made by a step that cannot make it anew.
        """
        conversion = state.conversion
        if conversion is None and state.graph is not None:
            raise ValueError("the graph was made by a step that cannot make it anew")
        given = state if conversion is None else conversion.source
        network = copy.deepcopy(given.network)
        teacher = Teacher(given.dense, self.distill, self.temperature)
        simulate_quantization = (
            conversion.converter.simulate(network, state) if conversion else nullcontext()
        )
        with simulate_quantization:
            fit(
                network,
                data.train,
                self,
                progress,
                masks=given.masks,
                teacher=teacher if self.distill else None,
                label="recovery",
            )
        trained = replace(given, network=network)
        return (
            trained if conversion is None else conversion.converter.apply(trained, data, progress)
        )
