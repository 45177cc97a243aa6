"""Builds the variants of `throughput.yaml` and serves them, for benchmarks of the whole service."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from rich.progress import Progress

from serving.gateway.description import Ports
from serving.routing.profile import variant_profiles
from variants.catalog.hardware import hardware
from variants.catalog.recipe import DENSE

PROJECT: Final = Path(__file__).with_name("throughput.yaml")
SECONDS_PER_POINT: Final = 0.1
"""Time for each latency measurement of the build, in seconds: less than the default."""


@contextmanager
def run_benchmark_service(progress: Progress) -> Iterator[Ports]:
    """Build the variants, serve them on free ports and yield the ports."""
    from serving.cluster.environment import set_environment

    set_environment()  # before ray is imported
    from serving.cluster.start import local_cluster, start_service
    from serving.gateway.settings import Settings

    with tempfile.TemporaryDirectory(prefix="paretoserve-throughput-") as folder:
        catalog = build_catalog(Path(folder), progress)
        free = {"http": {"port": 0}, "grpc": {"port": 0}}
        settings = Settings.model_validate({"catalog": catalog, **free})
        with local_cluster():
            yield start_service(settings)


def build_catalog(folder: Path, progress: Progress) -> Path:
    """Build the project in a folder; return the path of the catalog.

    Raises RuntimeError unless dense is significantly more accurate than all other variants:
    requests without an SLO must be answered by it.
    """
    from variants.build.build import build
    from variants.measurement.report_card import measure

    measure_briefly = partial(measure, seconds_per_point=SECONDS_PER_POINT)
    catalog = build(PROJECT, folder / "catalog", progress=progress, measure=measure_briefly)
    profiles = variant_profiles(catalog, hardware(1).key)
    tiers = {name: profile.tier_accuracy for name, profile in profiles.items()}
    if any(tier >= tiers[DENSE] for name, tier in tiers.items() if name != DENSE):
        raise RuntimeError(f"routed requests would not be answered by dense: {tiers}")
    return folder / "catalog"
