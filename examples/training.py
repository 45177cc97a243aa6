"""Training of the weights of an example."""

from __future__ import annotations

import time
from pathlib import Path

import safetensors.torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from variants.catalog import artifact
from variants.model.dataset import Datasets
from variants.model.threads import limit_threads
from variants.model.training import Schedule, accuracy, fit


def train(network: nn.Module, datasets: Datasets, schedule: Schedule, weights: Path) -> None:
    """Train the network, write its weights atomically and print its validation accuracy.

    The test split is not used here. Only report cards use it.
    """
    limit_threads()
    console = Console()
    started = time.perf_counter()
    with Progress(console=console) as progress:
        fit(network, datasets.train, schedule, progress)
    artifact.write_file(weights, safetensors.torch.save(network.state_dict()))
    console.print(
        f"validation accuracy {accuracy(network, datasets.validation):.2%} "
        f"after {time.perf_counter() - started:.0f} s; weights in {weights}"
    )
