"""The model whose service is measured: 784-1024-1024-10, 1.9 M parameters, random weights.

Its labels are what it answers itself, so that the dense variant is the most accurate by
construction, and a request that asks for nothing else gets it.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import safetensors.torch
import torch
from torch import nn

from variants.model.dataset import Datasets, Split

INPUTS: Final = 784
SAMPLES: Final = 1000


def network() -> nn.Sequential:
    """Pixels FP32 `[n, 784]` to logits FP32 `[n, 10]`; the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Linear(INPUTS, 1024),
            nn.ReLU(),
            nn.Linear(1024, 1024),
            nn.ReLU(),
            nn.Linear(1024, 10),
        )
        for layer in layers:
            if isinstance(layer, nn.Linear):
                # Keeps the variance of activations: the logits differ from input to input.
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layers


@cache
def weights() -> Path:
    """Write the weights of the network into a folder that is gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="paretoserve-mlp-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "weights.safetensors"
    safetensors.torch.save_file(network().state_dict(), path)
    return path


@cache
def datasets() -> Datasets:
    """Normal noise, three times."""
    rng = np.random.default_rng(0)
    return Datasets(train=_split(rng), validation=_split(rng), test=_split(rng))


def _split(rng: np.random.Generator) -> Split:
    samples = rng.standard_normal((SAMPLES, INPUTS), dtype=np.float32)
    with torch.inference_mode():
        labels = network()(torch.from_numpy(samples)).argmax(dim=1).numpy()
    return Split({"input": samples}, labels)
