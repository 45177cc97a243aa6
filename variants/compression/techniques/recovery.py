"""Recovery: fine-tuning after compression, with masked weights held at zero."""

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
    """Trains the network on the train split with cross-entropy; masked weights stay zero.

    With `distill` above 0, that share of the loss is the distillation loss: the divergence from
    the dense network's outputs, both softened by `temperature` (Hinton, Vinyals and Dean 2015,
    arXiv:1503.02531).

    After a step that made a graph, such as `int8`, the network is trained while that step simulates
    the graph, and the step is then applied again. After `int8` this is quantization-aware training.

    `epochs`, `batch_size`, `learning_rate`, `weight_decay` and `seed` are those of `Schedule`.
    """

    kind: ClassVar[str] = "recover"
    accepts: ClassVar[Stage] = Stage.GRAPH
    yields: ClassVar[Stage] = Stage.FREE

    distill: float = Field(default=0.0, ge=0, le=1)
    """Share of the distillation loss in the training loss, 0 to 1."""
    temperature: float = Field(default=4.0, gt=0)
    """Temperature of the softmax in the distillation loss."""

    def apply(
        self, state: CompressionState, data: TrainingData, progress: Progress
    ) -> CompressionState:
        """Return the state with trained weights; a graph is rebuilt from them.

        Raises `ValueError` if the step that made the graph cannot rebuild it.
        """
        conversion = state.conversion
        if conversion is None and state.graph is not None:
            raise ValueError(
                "the step that made the graph cannot rebuild it from a trained network"
            )
        source = state if conversion is None else conversion.source
        network = copy.deepcopy(source.network)
        teacher = Teacher(source.dense, self.distill, self.temperature)
        simulation = conversion.converter.simulate(network, state) if conversion else nullcontext()
        with simulation:
            fit(
                network,
                data.train,
                self,
                progress,
                masks=source.masks,
                teacher=teacher if self.distill else None,
                label="recovery",
            )
        trained = replace(source, network=network)
        return (
            trained if conversion is None else conversion.converter.apply(trained, data, progress)
        )
