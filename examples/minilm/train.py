"""Fine-tunes MiniLM with its head on TREC-6, writes the weights: `python -m examples.minilm.train`.

The test split is not looked at here: report cards do that, once.
"""

from __future__ import annotations

import time
from typing import Final

import safetensors.torch
import torch
from rich.console import Console
from rich.progress import Progress

from examples.minilm import data, model
from examples.minilm.prepare import ENCODER
from variants import artifact
from variants.training import Schedule, accuracy, fit

SCHEDULE: Final = Schedule(epochs=4, batch_size=32, learning_rate=1e-4, weight_decay=0.01, seed=0)


def main() -> None:
    """Train, say how well it went, and write the weights in one step."""
    console = Console()
    started = time.perf_counter()
    datasets = model.datasets()
    torch.manual_seed(SCHEDULE.seed)
    network = model.network()
    network.encoder.load_state_dict(safetensors.torch.load_file(data.FOLDER / ENCODER))
    with Progress(console=console) as progress:
        fit(network, datasets.train, SCHEDULE, progress)
    artifact.write_file(model.weights(), safetensors.torch.save(network.state_dict()))
    console.print(
        f"validation accuracy {accuracy(network, datasets.validation):.2%} "
        f"after {time.perf_counter() - started:.0f} s; weights in {model.weights()}"
    )


if __name__ == "__main__":
    main()
