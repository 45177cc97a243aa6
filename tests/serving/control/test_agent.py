"""The agent with the real store, generations on disk, and a gateway that records its updates."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serving.control.agent import Agent
from serving.control.cluster import GenerationKey
from serving.control.startup import adopt_catalog
from serving.control.state import Lineup, ReplicaReport
from serving.control.store.store import Store
from tests.waiting import GIVE_UP_S, until
from variants.catalog import artifact, generations
from variants.catalog.catalog import Catalog, Variant


@dataclass
class RecordingGateway:
    """A gateway that routes at once to all that is published."""

    name: str = "here"
    lineups: list[Lineup] = field(default_factory=list)
    records: Mapping[GenerationKey, Variant] = field(default_factory=dict)
    replicas: int = 1

    def update(self, lineup: Lineup, records: Mapping[GenerationKey, Variant]) -> None:
        self.lineups.append(lineup)
        self.records = records

    def reports(self) -> Sequence[ReplicaReport]:
        return [
            ReplicaReport(
                gateway=self.name,
                variant=name,
                generation=number,
                state="routed",
                replicas=self.replicas,
                at=time.time(),
            )
            for name, number in self.lineups[-1].published.items()
        ]


@pytest.fixture
def catalog(tmp_path: Path, small_catalog: Path) -> Path:
    """A catalog of copies of `dense` and `int8`."""
    folder = tmp_path / "catalog"
    folder.mkdir()
    artifact.write_record(folder / "catalog.json", Catalog.load(small_catalog).model)
    for name in ("dense", "int8"):
        shutil.copytree(small_catalog / name, folder / name)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'state.db'}") as store:
        yield store


def agent_of(
    gateway: RecordingGateway,
    store: Store,
    catalog: Path,
    poll_s: float = 0.01,
    **options: object,
) -> Agent:
    return Agent(gateway, store, catalog, poll_s=poll_s, **options)  # type: ignore[arg-type]


async def test_a_gateway_serves_what_is_published_and_reports_it(
    catalog: Path, store: Store
) -> None:
    adopt_catalog(store, catalog)
    gateway = RecordingGateway()
    await agent_of(gateway, store, catalog).step()
    assert gateway.lineups[-1].published == {"dense": 1, "int8": 1}
    assert gateway.records.keys() == {("dense", 1), ("int8", 1)}
    assert {(each.variant, each.state) for each in store.reports(GIVE_UP_S)} == {
        ("dense", "routed"),
        ("int8", "routed"),
    }
    assert store.snapshot(GIVE_UP_S).gateways == {"here"}


async def test_a_change_reaches_the_gateway_and_nothing_else_does(
    catalog: Path, store: Store
) -> None:
    adopt_catalog(store, catalog)
    gateway = RecordingGateway()
    task = asyncio.create_task(agent_of(gateway, store, catalog).run())
    await until(lambda: len(gateway.lineups) == 1)
    store.submit_remove("int8", "me")
    await until(lambda: len(gateway.lineups) == 2)
    assert gateway.lineups[-1].published == {"dense": 1}
    await asyncio.sleep(0.1)  # ten polls
    assert len(gateway.lineups) == 2
    task.cancel()


async def test_what_the_gateway_sees_is_reported_at_once_if_it_has_changed(
    catalog: Path, store: Store
) -> None:
    adopt_catalog(store, catalog)
    gateway = RecordingGateway()
    reported: list[int] = []
    agent = agent_of(
        gateway,
        store,
        catalog,
        poll_s=GIVE_UP_S,
        on_report=lambda: reported.append(gateway.replicas),
    )
    task = asyncio.create_task(agent.run())
    await until(lambda: reported == [1])
    for replicas in (1, 1, 2):
        gateway.replicas = replicas
        agent.look()
    await until(lambda: reported == [1, 2])
    assert {each.replicas for each in store.reports(GIVE_UP_S)} == {2}
    task.cancel()


async def test_a_generation_with_missing_files_is_reported_and_read_again(
    catalog: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.control.agent.RELOAD_S", 0.0)
    adopt_catalog(store, catalog)
    model = generations.folder(catalog, "int8", 1) / "model.onnx"
    model.rename(model.with_suffix(".away"))
    gateway = RecordingGateway()
    agent = agent_of(gateway, store, catalog)
    await agent.step()
    assert gateway.lineups[-1].published == {"dense": 1}
    (failed,) = [each for each in store.reports(GIVE_UP_S) if each.state == "failed"]
    assert failed.variant == "int8"
    assert failed.error is not None
    assert "model.onnx cannot be read" in failed.error
    model.with_suffix(".away").rename(model)
    await agent.step()
    assert gateway.lineups[-1].published == {"dense": 1, "int8": 1}


async def test_a_generation_whose_folder_was_replaced_by_another_build_is_not_served(
    catalog: Path, store: Store
) -> None:
    adopt_catalog(store, catalog)
    folder = generations.folder(catalog, "int8", 1)
    shutil.rmtree(folder)
    with generations.draft(catalog, "dense") as draft:  # a valid one, of another variant
        other = draft.variant.model_copy(update={"name": "int8"})
        artifact.write_record(draft.folder / artifact.RECORD, other)
        shutil.copytree(draft.folder, folder)
    gateway = RecordingGateway()
    await agent_of(gateway, store, catalog).step()
    assert gateway.lineups[-1].published == {"dense": 1}
    (failed,) = [each for each in store.reports(GIVE_UP_S) if each.state == "failed"]
    assert failed.error is not None
    assert "the files of generation 1 of int8 were replaced by others" in failed.error


async def test_while_the_store_does_not_answer_the_last_lineup_is_served(
    catalog: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopt_catalog(store, catalog)
    gateway = RecordingGateway()
    agent = agent_of(gateway, store, catalog)
    task = asyncio.create_task(agent.run())
    await until(lambda: len(gateway.lineups) == 1)
    failures = []

    def fail() -> int:
        failures.append(1)
        raise OSError("no disk")

    with monkeypatch.context() as patch:
        patch.setattr(store, "revision", fail)
        await until(lambda: len(failures) > 2)
    assert not task.done()
    assert len(gateway.lineups) == 1
    store.submit_remove("int8", "me")
    await until(lambda: len(gateway.lineups) == 2)
    task.cancel()


def test_a_start_adopts_the_catalog_once_and_what_was_removed_stays_removed(
    catalog: Path, store: Store
) -> None:
    assert adopt_catalog(store, catalog) == frozenset()
    before = store.revision()
    adopt_catalog(store, catalog)
    assert store.revision() == before
    store.submit_remove("int8", "me")
    store.removed("int8")
    adopt_catalog(store, catalog)
    assert store.lineup().published == {"dense": 1}
    assert generations.on_disk(catalog) == {("dense", 1), ("int8", 1)}


def test_a_variant_that_is_not_among_the_settings_is_not_served_but_kept(
    catalog: Path, store: Store
) -> None:
    assert adopt_catalog(store, catalog, ["dense"]) == frozenset()
    assert store.lineup().published == {"dense": 1}
    store.submit_publish("int8", 1, "me")
    store.publish("int8", 1)
    assert adopt_catalog(store, catalog, ["dense"]) == {("int8", 1)}
    with pytest.raises(ValueError, match="has no variant other; it has dense, int8"):
        adopt_catalog(store, catalog, ["other"])
