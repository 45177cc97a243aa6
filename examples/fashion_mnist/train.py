"""Trains the demo model and writes its weights: `python -m examples.fashion_mnist.train`.

The test split is not looked at here: report cards do that, once.
"""

from __future__ import annotations

import time
from typing import Final

import safetensors.torch
import torch
from rich.console import Console
from rich.progress import Progress

from examples.fashion_mnist import model
from variants import artifact
from variants.training import Schedule, accuracy, fit

SCHEDULE: Final = Schedule(epochs=6, batch_size=256, learning_rate=1e-3, weight_decay=0.05, seed=0)


def main() -> None:
    """Train, say how well it went, and write the weights in one step."""
    console = Console()
    started = time.perf_counter()
    datasets = model.datasets()
    torch.manual_seed(SCHEDULE.seed)
    network = model.network()
    with Progress(console=console) as progress:
        fit(network, datasets.train, SCHEDULE, progress)
    artifact.write_file(model.weights(), safetensors.torch.save(network.state_dict()))
    console.print(
        f"validation accuracy {accuracy(network, datasets.validation):.2%} "
        f"after {time.perf_counter() - started:.0f} s; weights in {model.weights().name}"
    )


if __name__ == "__main__":
    main()
