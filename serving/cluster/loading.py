"""Loads a generation of a variant, in the process of a host or of a gateway."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from typing import Final

from serving.gateway.local_hosts import LoadedGeneration
from serving.gateway.settings import Settings
from variants.catalog import generations
from variants.catalog.catalog import Model, Variant
from variants.catalog.device import provider
from variants.catalog.storage import open_storage
from variants.catalog.zero_inputs import zero_batch
from variants.runtime.runner import Runner, load_artifact

RUNTIMES: Final = "variants.runtime"
"""Package of the modules that execute variants, each named like its runtime."""

SWITCH_S: Final = 0.0005
"""Longest time, in seconds, for which the event loop of a gateway that computes variants keeps the
interpreter lock while a compute thread waits for it. By default it is 5 ms, for which a batch that
is computed may then wait to be answered."""


def find_generation(settings: Settings, variant: str, generation: int) -> Variant:
    """Return the record of a generation.

    With `artifacts` in the settings, a generation that is missing on this node or damaged is
    restored from there. Raises `ValueError` that names the file that is missing or damaged.
    """
    storage = open_storage(settings.artifacts)
    if storage is not None:
        storage.restore(settings.catalog, variant, generation)
    return generations.load(settings.catalog, variant, generation)


def load_runner(settings: Settings, variant: str, generation: int, record: Variant) -> Runner:
    """Return a runner of a generation that has run its smallest and its largest batch.

    Raises `ValueError` as `load_artifact` does.
    """
    hosts = settings.hosts
    model = Model.load(settings.catalog)
    folder = generations.folder(settings.catalog, variant, generation)
    runner = load_artifact(folder, model, record, threads=hosts.cpus, device=hosts.device)
    for size in (1, settings.limits.batch_size):
        runner(zero_batch(model, size))
    return runner


def load_in_gateway(settings: Settings, variant: str, generation: int) -> LoadedGeneration:
    """Load a generation into the process of a gateway, and prepare the process for it.

    Raises as `find_generation` and `load_runner` do.
    """
    sys.setswitchinterval(SWITCH_S)
    record = find_generation(settings, variant, generation)
    runtime = f"{RUNTIMES}.{record.runner}"
    if runtime not in sys.modules:
        import_module(runtime)
        # Modules live as long as the process. With them, a full garbage collection would take
        # longer, and no request is served meanwhile.
        gc.freeze()
    return LoadedGeneration(
        load_runner(settings, variant, generation, record),
        provider(record.runner, settings.hosts.device),
        generations.digest(record),
    )
