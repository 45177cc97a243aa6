"""Variants of a running service: added, replaced, rolled back and removed under load, and kills.

The tests share one service and run in order; each leaves it with what it found.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.cluster.live_service import (
    BUILD,
    BUILDER,
    CONTROLLER,
    GATEWAY,
    LiveService,
    host,
    infer,
    kill_all,
    live_service,
    load,
)
from tests.waiting import wait_until
from variants.catalog import generations

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

RECIPE = [{"technique": "int8", "parameters": {"samples": 64}}]
SERVED = {"dense": 1, "int8": 1}


@pytest.fixture(scope="module")
def catalog(small_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of two variants that this file may change."""
    folder = tmp_path_factory.mktemp("live") / "catalog"
    shutil.copytree(small_catalog, folder)
    for name in ("activation-pruned", "sparse-2:4"):
        shutil.rmtree(folder / name)
    return folder


@pytest.fixture(scope="module")
def live(catalog: Path, small_project: Path) -> Iterator[LiveService]:
    with live_service(catalog, small_project, catalog.parent / "output") as service:
        assert service.published() == SERVED
        yield service


def test_variants_change_under_load_without_a_failed_request(live: LiveService) -> None:
    with load(live) as sent:
        added = live.submit("/variants", {"name": "new", "recipe": RECIPE} | FORCE)
        assert live.wait_for(added)["status"] == "succeeded"
        wait_until(lambda: live.is_routed("new", 1))
        replaced = live.submit("/variants/new/replace", {"recipe": RECIPE} | FORCE)
        assert live.wait_for(replaced)["status"] == "succeeded"
        wait_until(lambda: live.is_routed("new", 2))
        wait_until(lambda: not live.pids(host("new", 1)))
        live.wait_until_kept("new", 1)
        back = live.submit("/variants/new/rollback", {})
        assert live.wait_for(back)["status"] == "succeeded"
        wait_until(lambda: live.is_routed("new", 1))
        removed = live.submit("/variants/new", method="DELETE")
        assert live.wait_for(removed)["status"] == "succeeded"
        wait_until(lambda: not live.pids("ray::ServeReplica:v-new"))
        sent.wait_for_more(20)
    assert set(sent.results) == {200}
    answer = infer(live.url, live.catalog, {"variant": "new"})
    assert answer is not None
    assert answer[0] == 404
    assert live.published() == SERVED


def test_a_killed_builder_is_started_again(live: LiveService) -> None:
    with load(live) as sent:
        job = live.submit("/variants", {"name": "again", "recipe": RECIPE} | FORCE)
        live.kill(BUILDER)
        done = live.wait_for(job)
        assert (done["status"], done["attempts"]) == ("succeeded", 2)
    assert set(sent.results) == {200}
    _remove(live, "again")


def test_a_cancelled_build_leaves_no_process(live: LiveService) -> None:
    job = live.submit("/variants", {"name": "cancelled", "recipe": RECIPE})
    wait_until(lambda: bool(live.pids(BUILD)))
    with live.admin() as client:
        assert client.post(f"/jobs/{job}/cancel").status_code == 202
    assert live.wait_for(job)["status"] == "cancelled"
    wait_until(lambda: not live.pids(BUILD) and not live.pids(BUILDER))
    assert live.published() == SERVED


def test_the_state_survives_the_loss_of_the_controller_a_host_and_the_gateway(
    live: LiveService,
) -> None:
    with load(live) as sent:
        job = live.submit("/variants", {"name": "steady", "recipe": RECIPE} | FORCE)
        wait_until(lambda: bool(live.pids(BUILD)))
        live.kill(CONTROLLER)
        sent.wait_for_more(20)
        live.kill(host("int8", 1))
        sent.wait_for_more(20)
        assert set(sent.results) == {200}
        live.kill(GATEWAY)
        done = live.wait_for(job)
        assert (done["status"], done["attempts"]) == ("succeeded", 1)
        wait_until(lambda: live.is_routed("steady", 1) and live.is_routed("int8", 1))
        sent.wait_for_more(20)
    # Connections to the killed gateway broke; whatever else was accepted was answered.
    assert set(sent.results) <= {200, 503, None}
    assert live.published() == SERVED | {"steady": 1}
    _remove(live, "steady")


def test_damaged_files_fail_a_publication_and_leave_what_is_served(live: LiveService) -> None:
    job = live.submit("/variants/int8/replace", {"recipe": RECIPE} | FORCE)
    assert live.wait_for(job)["status"] == "succeeded"
    live.wait_until_kept("int8", 1)
    damaged = generations.folder(live.catalog, "int8", 1) / "model.onnx"
    with load(live) as sent:
        # Without the controller, no host starts before the file is gone.
        with live.stopped(CONTROLLER):
            back = live.submit("/variants/int8/rollback", {})
            damaged.rename(damaged.with_suffix(".away"))
        failed = live.wait_for(back)
    assert failed["status"] == "failed"
    assert "model.onnx" in failed["error"]
    assert set(sent.results) == {200}
    wait_until(lambda: live.is_routed("int8", 2))
    wait_until(lambda: not live.pids(host("int8", 1)))
    with live.admin() as client:
        again = client.post("/variants/int8/publish", json={"generation": 1, "reason": "a test"})
    assert again.status_code == 409
    assert "model.onnx" in again.json()["error"]


def test_a_host_that_finds_no_files_says_so_and_comes_back_with_them(live: LiveService) -> None:
    model = generations.folder(live.catalog, "dense", 1) / "model.onnx"
    away = model.rename(model.with_suffix(".away"))
    with load(live) as sent:
        live.kill(host("dense", 1))
        wait_until(lambda: "model.onnx" in (live.error("dense") or ""))
        away.rename(model)
        wait_until(lambda: live.is_routed("dense", 1) and live.error("dense") is None)
    assert set(sent.results) == {200}


def test_a_killed_service_comes_back_as_it_was(
    catalog: Path, small_project: Path, live: LiveService
) -> None:
    job = live.submit("/variants", {"name": "kept", "recipe": RECIPE} | FORCE)
    assert live.wait_for(job)["status"] == "succeeded"
    served = live.published()
    with live.admin() as client:
        history = client.get("/history").json()
    children = psutil.Process(live.process.pid).children(recursive=True)
    os.kill(live.process.pid, signal.SIGKILL)
    kill_all(children)
    live.process.wait()
    with live_service(catalog, small_project, catalog.parent / "second") as again:
        assert again.published() == served
        for variant, generation in served.items():
            # On a busy machine, a service is ready before all its hosts are.
            wait_until(partial(again.is_routed, variant, generation))
        with again.admin() as client:
            assert client.get("/history").json() == history
    assert not list((catalog / ".building").glob("*"))


FORCE = {"force": True, "reason": "a test of what happens after the gate"}


def _remove(live: LiveService, variant: str) -> None:
    job = live.submit(f"/variants/{variant}", method="DELETE")
    assert live.wait_for(job)["status"] == "succeeded"
