"""Fixtures of many tests: a small trained project, its catalog, and a service of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.shared_folder import shared_folder
from variants.catalog.cpus import available_cpus

if TYPE_CHECKING:
    from tests.service import RunningService

# Set before torch is imported, and inherited by child processes. On busy cores, training the small
# networks of the tests with two threads takes ten times as long as with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before any worker starts, so that all have the same.
shared_folder()

# A busy machine may stop a process for seconds. Only tests of heartbeats lose hosts by silence.
os.environ.setdefault("PARETOSERVE_LINK_SILENCE_MS", "600000")

# pytest-xdist sets a width for its workers, which rich would keep for all output of the process.
os.environ.pop("COLUMNS", None)

# Tests may share their cores with other processes, so the time of an example is not meaningful.
# The result of the suite depends on the code only. `--hypothesis-profile=explore` tries new
# examples.
settings.register_profile(
    "explore", deadline=None, max_examples=1_000, suppress_health_check=list(HealthCheck)
)
settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


TESTS = Path(__file__).parent
SLOW = tuple(
    TESTS / path
    for path in (
        "examples", "paretoserve", "docs/test_readme.py", "loadtests/benchmarks",
        "loadtests/closed_loop", "loadtests/replay", "loadtests/simulator", "loadtests/trials",
        "serving/gateway/test_two_gateways.py", "variants/analysis", "variants/build",
        "variants/compression", "variants/measurement", "zoo",
    )
)  # fmt: skip
"""Folders and files of which most tests train, export, measure, simulate or start processes."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests, and group tests for pytest-xdist.

    All tests that use Ray run in one process. Other tests run in one process per file.
    """
    for item in items:
        fixtures: list[str] = item.fixturenames  # type: ignore[attr-defined]
        uses_ray = item.get_closest_marker("cluster") or "service" in fixtures
        item.add_marker(pytest.mark.xdist_group("cluster" if uses_ray else str(item.path)))
        if any(map(item.path.is_relative_to, SLOW)) or "small_catalog" in fixtures:
            item.add_marker(pytest.mark.slow)


def pytest_xdist_auto_num_workers() -> int:
    """Return the processes for `-n logical`: pytest-xdist would count all CPUs of the machine."""
    return available_cpus()


def pytest_configure() -> None:
    """Stop if pytest-xdist cannot group tests: two Ray clusters at once overload a machine."""
    if not hasattr(pytest.Item, "_nodeid"):  # pytest-xdist 3.8 writes the group there
        raise pytest.UsageError("pytest-xdist does not group tests with this version of pytest")


@pytest.fixture(scope="session")
def onnx_operators() -> Iterator[None]:
    """Make torch's ONNX exporter build its table of operators once instead of in each export.

    The table is constant. Building it takes half of the export of a small network.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        build_table = staticmethod(cache(ONNXRegistry.from_torchlib))
        patch.setattr(ONNXRegistry, "from_torchlib", build_table)
        yield


@pytest.fixture(scope="session")
def fp32_training() -> Iterator[None]:
    """Let trainings of this process compute in FP32, whether or not the processor multiplies BF16.

    Their results, and whether they pass a threshold, would depend on the kind of processor.
    """
    from variants.catalog.hardware import hardware
    from variants.model import training

    without_flags = hardware(1).model_copy(update={"flags": ()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "hardware", lambda threads: without_flags)
        yield


@pytest.fixture(scope="session")
def small_project(tmp_path_factory: pytest.TempPathFactory, fp32_training: None) -> Path:
    """The project file of a small trained network with four recipes; do not change it."""
    from tests.small import write_project  # imports torch, which few tests of serving/ need

    return write_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def small_catalog(
    small_project: Path, tmp_path_factory: pytest.TempPathFactory, onnx_operators: None
) -> Iterator[Path]:
    """A catalog of four measured variants, as `paretoserve build` writes it; do not change it."""
    from tests.small import measure_lightly, quiet
    from variants.build.build import build

    catalog = tmp_path_factory.mktemp("catalog")
    build(small_project, catalog, progress=quiet(), measure=measure_lightly)
    yield catalog
    assert not (catalog / ".control").exists(), "a test has served it; serve `own_catalog`"


@pytest.fixture
def own_catalog(small_catalog: Path, tmp_path: Path) -> Path:
    """A copy of `small_catalog`, for a test that serves it: a service keeps its state there."""
    return Path(shutil.copytree(small_catalog, tmp_path / "catalog"))


@pytest.fixture(scope="session")
def running_service(
    small_catalog: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """A service of all four variants on the Ray cluster that all cluster tests share."""
    from tests.service import run_service  # its imports are for these tests only

    catalog = tmp_path_factory.mktemp("served") / "catalog"
    shutil.copytree(small_catalog, catalog)
    with run_service(catalog) as running:
        yield running


@pytest.fixture
def service(running_service: RunningService) -> RunningService:
    """The shared service, with a live replica of every variant, whatever the last test did.

    A service is ready with fewer on a slow machine (`START_GRACE_S`), and tests kill replicas.
    """
    from tests.service import wait_until_ready

    wait_until_ready(running_service)
    return running_service
