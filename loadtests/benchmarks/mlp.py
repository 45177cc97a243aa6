"""The model of the benchmarked service: 784-1024-1024-10, 1.9 M parameters, random weights.

The labels of its datasets are its own predictions. The dense variant is therefore the most
accurate by construction, and answers requests without an SLO if the others differ by more than
noise.
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
"""Samples per split."""


def network() -> nn.Sequential:
    """Return the network, from FP32 `[n, 784]` to FP32 `[n, 10]`; its weights are constant."""
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
                # Preserves the variance of activations, so that logits differ between inputs.
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layers


@cache
def weights() -> Path:
    """Write the weights into a folder that is removed when the process exits; return the file."""
    folder = Path(tempfile.mkdtemp(prefix="paretoserve-mlp-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "weights.safetensors"
    safetensors.torch.save_file(network().state_dict(), path)
    return path


@cache
def datasets() -> Datasets:
    """Return three splits of normally distributed samples."""
    rng = np.random.default_rng(0)
    return Datasets(train=_split(rng), validation=_split(rng), test=_split(rng))


def _split(rng: np.random.Generator) -> Split:
    samples = rng.standard_normal((SAMPLES, INPUTS), dtype=np.float32)
    with torch.inference_mode():
        labels = network()(torch.from_numpy(samples)).argmax(dim=1).numpy()
    return Split({"input": samples}, labels)
