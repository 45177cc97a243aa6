"""Fine-tunes MiniLM with a classification head on TREC-6: `python -m examples.minilm.train`."""

from __future__ import annotations

from typing import Final

import safetensors.torch
import torch

from examples.minilm import data, model
from examples.minilm.prepare import ENCODER
from examples.training import train
from variants.model.training import Schedule

SCHEDULE: Final = Schedule(epochs=4, batch_size=32, learning_rate=1e-4, weight_decay=0.01, seed=0)


def main() -> None:
    """Train the published encoder with a new head."""
    datasets = model.datasets()
    torch.manual_seed(SCHEDULE.seed)
    network = model.network()
    network.encoder.load_state_dict(safetensors.torch.load_file(data.FOLDER / ENCODER))
    train(network, datasets, SCHEDULE, model.weights())


if __name__ == "__main__":
    main()
