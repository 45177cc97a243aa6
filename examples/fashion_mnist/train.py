"""Trains the demo model and writes its weights: `python -m examples.fashion_mnist.train`.

The test split is not looked at here: report cards do that, once.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from rich.console import Console
from rich.progress import Progress

from examples.fashion_mnist import data, model
from variants import artifact
from variants.training import Schedule, accuracy, fit

WEIGHTS: Final = Path(__file__).with_name("weights.safetensors")
SCHEDULE: Final = Schedule(epochs=6, batch_size=256, learning_rate=1e-3, weight_decay=0.05, seed=0)


def main() -> None:
    """Train, say how well it went, and write the weights in one step."""
    console = Console()
    started = time.perf_counter()
    datasets = data.load()
    torch.manual_seed(SCHEDULE.seed)
    network = model.build()
    with Progress(console=console) as progress:
        fit(network, datasets.train, SCHEDULE, progress)
    artifact.write_file(WEIGHTS, safetensors.torch.save(network.state_dict()))
    console.print(
        f"validation accuracy {accuracy(network, datasets.validation):.2%} "
        f"after {time.perf_counter() - started:.0f} s; weights in {WEIGHTS.name}"
    )


if __name__ == "__main__":
    main()
