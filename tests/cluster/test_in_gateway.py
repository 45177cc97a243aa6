"""A running service whose gateway computes all variants in its own process.

The tests share one service and run in order; each leaves it with what it found.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.cluster.live_service import (
    GATEWAY,
    LiveService,
    infer,
    live_service,
    load,
)
from tests.cluster.test_variants import FORCE, RECIPE
from tests.waiting import wait_until
from variants.catalog import generations

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

HOSTS = "ray::ServeReplica:v-"
TORCH = "libtorch"


@pytest.fixture(scope="module")
def catalog(small_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of two ONNX variants that this file may change."""
    folder = tmp_path_factory.mktemp("inside") / "catalog"
    shutil.copytree(small_catalog, folder)
    for name in ("activation-pruned", "sparse-2:4"):
        shutil.rmtree(folder / name)
    return folder


@pytest.fixture(scope="module")
def live(catalog: Path, small_project: Path) -> Iterator[LiveService]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETOSERVE_HOSTS__IN_GATEWAY", "all")
        with live_service(catalog, small_project, catalog.parent / "output") as service:
            yield service


def maps_of_the_gateway(live: LiveService) -> set[str]:
    """Return the files that the process of the gateway has mapped."""
    (pid,) = live.pids(GATEWAY)
    return {each.path for each in psutil.Process(pid).memory_maps()}


def test_there_are_no_hosts_and_torch_is_not_loaded(live: LiveService) -> None:
    answer = infer(live.url, live.catalog, {"variant": "int8"})
    assert answer == (200, 1)
    assert live.pids(HOSTS) == []
    mapped = maps_of_the_gateway(live)
    assert any("onnxruntime" in path for path in mapped)
    assert not any(TORCH in path for path in mapped)


def test_variants_change_under_load_without_a_failed_request(live: LiveService) -> None:
    with load(live) as sent:
        added = live.submit("/variants", {"name": "new", "recipe": RECIPE} | FORCE)
        assert live.wait_for(added)["status"] == "succeeded"
        wait_until(lambda: live.is_routed("new", 1))
        replaced = live.submit("/variants/new/replace", {"recipe": RECIPE} | FORCE)
        assert live.wait_for(replaced)["status"] == "succeeded"
        wait_until(lambda: live.is_routed("new", 2))
        live.wait_until_kept("new", 1)
        back = live.submit("/variants/new/rollback", {})
        assert live.wait_for(back)["status"] == "succeeded"
        wait_until(lambda: live.is_routed("new", 1))
        removed = live.submit("/variants/new", method="DELETE")
        assert live.wait_for(removed)["status"] == "succeeded"
        sent.wait_for_more(20)
    assert set(sent.results) == {200}
    answer = infer(live.url, live.catalog, {"variant": "new"})
    assert answer is not None
    assert answer[0] == 404
    assert live.pids(HOSTS) == []


def test_a_killed_gateway_comes_back_with_what_it_served(live: LiveService) -> None:
    served = live.published()
    live.kill(GATEWAY)
    for variant, generation in served.items():
        wait_until(partial(live.is_routed, variant, generation))
    assert live.published() == served


def test_a_gateway_that_finds_damaged_files_says_so_and_comes_back_with_them(
    live: LiveService,
) -> None:
    built = live.submit("/variants", {"name": "built", "recipe": RECIPE} | FORCE)
    assert live.wait_for(built)["status"] == "succeeded"
    # Of this variant there are no other files, with which a start would repair these.
    model = generations.folder(live.catalog, "built", 1) / "model.onnx"
    away = model.rename(model.with_suffix(".away"))
    model.write_bytes(bytes(away.stat().st_size))  # only the hash is wrong
    live.kill(GATEWAY)
    wait_until(lambda: live.is_routed("dense", 1))
    wait_until(lambda: "model.onnx" in (live.error("built") or ""))
    away.rename(model)
    wait_until(lambda: live.is_routed("built", 1) and live.error("built") is None)
