"""Loaders of dense in every runtime. Speedups refer to the fastest of them.

Dense is served as ONNX. Its artifact also contains the original weights, so torch can run it too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import safetensors.torch

from variants.catalog import artifact
from variants.catalog.catalog import File, Model, Runtime, Variant
from variants.catalog.device import Device
from variants.model.loading import load_network
from variants.runtime.plan import WEIGHTS
from variants.runtime.runner import Runner, load_runner
from variants.runtime.torch import TorchRunner


def dense_loaders(
    catalog: Path, model: Model, dense: Variant, *, threads: int, device: Device = "cpu"
) -> dict[Runtime, Callable[[], Runner]]:
    """Return a loader for each runtime that can run dense, first the one of its artifact."""
    loaders: dict[Runtime, Callable[[], Runner]] = {
        dense.runner: partial(load_runner, catalog, model, dense, threads=threads, device=device)
    }
    weights = next((file for file in dense.files if file.name == WEIGHTS), None)
    if dense.runner != "torch" and weights is not None:
        loaders["torch"] = partial(
            _load_torch, catalog / dense.name, model, weights, threads=threads, device=device
        )
    return loaders


def slower_runtimes(dense: Variant, hardware_key: str) -> frozenset[Runtime]:
    """Return the runtimes that are slower than another at every batch size of the card of dense.

    The runtime that serves dense is not among them, and without a card none is.
    """
    card = dense.report_card(hardware_key)
    if card is None:
        return frozenset()
    measured = {runtime for latency in card.latencies for runtime in latency.dense_p50_s}
    fastest = {latency.reference for latency in card.latencies}
    return frozenset(measured - fastest - {dense.runner})


def _load_torch(
    folder: Path, model: Model, weights: File, *, threads: int, device: Device
) -> Runner:
    network = load_network(model.factory)
    network.load_state_dict(safetensors.torch.load(artifact.read(folder, weights)))
    return TorchRunner(network, model, threads=threads, device=device, fast_path=True)
