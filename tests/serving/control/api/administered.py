"""A gateway with an admin API over a real store and catalog, and a reconciler that tests drive."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from serving.control.api.administration import Administration
from serving.control.api.preview import preview_build
from serving.control.api.service import Rules
from serving.control.recipes import check_recipe
from serving.control.settings import Builder, Gate
from serving.control.state import GateVerdict, Job
from serving.control.store.changes import IllegalTransition
from serving.control.store.database import sqlite_url
from serving.control.store.store import Store
from serving.control.tokens import Token, digest
from tests.serving.builders import InProcess, in_process
from tests.serving.control.store.states import gate
from tests.variants.catalog import cards
from variants.catalog import generations
from variants.catalog.catalog import File, Variant
from variants.catalog.recipe import Recipe, Step

ADMIN_TOKEN, READ_TOKEN = "the token of an admin", "the token of a reader"
TOKENS = (
    Token(name="ana", scope="admin", sha256=digest(ADMIN_TOKEN)),
    Token(name="dashboard", scope="read", sha256=digest(READ_TOKEN)),
)
MAX_BODY_BYTES = 2_000
POLL_S = 0.01

INT8: Recipe = (Step(technique="int8"),)
DYNAMIC: Recipe = (Step(technique="int8", parameters={"mode": "dynamic"}),)


def steps(recipe: Recipe) -> list[dict[str, Any]]:
    return [step.model_dump(mode="json") for step in recipe]


def authorization(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def write_variant(folder: Path, name: str, recipe: Recipe, content: str = "") -> Variant:
    """Write the artifact of a variant with one file; another content makes another artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    data = f"{name} {content}".encode()
    (folder / "model.onnx").write_bytes(data)
    file = File(name="model.onnx", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    variant = Variant(
        name=name,
        recipe=recipe,
        runner="onnx",
        files=(file,),
        report_cards=(cards.card(0.9, cards.latency(1, 0.002)),),
    )
    (folder / "variant.json").write_text(variant.model_dump_json())
    return variant


@dataclass
class Administered:
    """A service of `dense` and `int8`, generation 1 each, with `spare` in its catalog."""

    store: Store
    catalog: Path
    administration: Administration
    gateway: InProcess
    meeting: list[str] = field(default_factory=list)

    def client(self, token: str | None = ADMIN_TOKEN) -> httpx.AsyncClient:
        client = self.gateway.client()
        client.headers.update(authorization(token) if token else {})
        return client

    def build(self, job: Job, verdict: GateVerdict = "pass") -> Job:
        """Build a queued job, as a builder does."""
        started = self.store.start_job(job.id)
        number = started.generation
        assert number is not None
        assert started.recipe is not None
        self.store.report_progress(job.id, "techniques", 0.5)
        self.store.log(job.id, "quantized 2 layers")
        with tempfile.TemporaryDirectory(dir=self.catalog) as draft:
            variant = write_variant(Path(draft), job.variant, started.recipe, str(number))
            generations.publish_draft(Path(draft), self.catalog, job.variant, number)
        self.store.log(job.id, "measured")
        return self.store.built(job.id, generations.digest(variant), gate(verdict))

    def finish(self, job: Job, verdict: GateVerdict = "pass") -> Job:
        """Do all that a job asks for, as builder and reconciler do."""
        if job.kind == "build":
            job = self.build(job, verdict)
        if job.kind == "remove":
            self.store.removed(job.variant)
        elif job.stage == "warming":
            assert job.generation is not None
            self.store.publish(job.variant, job.generation)
            self.store.routed(job.variant)
        self.drain()
        return self.store.job(job.id)

    def drain(self) -> None:
        active = {job.variant for job in self.store.jobs(active_only=True)}
        for variant in self.store.variants():
            for each in variant.generations:
                if each.state == "draining" and variant.name not in active:
                    self.store.drained(variant.name, each.number)

    @asynccontextmanager
    async def reconciling(self) -> AsyncIterator[None]:
        """Finish all jobs in the background."""

        async def run() -> None:
            while True:
                for job in self.store.jobs(active_only=True):
                    with contextlib.suppress(IllegalTransition):  # it was just cancelled
                        self.finish(job)
                await asyncio.sleep(POLL_S)

        task = asyncio.create_task(run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def administered(
    folder: Path, *, is_inference_open: bool = True, has_project: bool = True
) -> AsyncIterator[Administered]:
    """Return a service in the running loop. Its project file has the recipe `named`."""
    catalog, project = folder / "catalog", folder / "recipes.yaml"
    project.write_text(
        "name: shirts\nmodel: m\nrecipes: {dense: [], named: [{technique: int8}], "
        "int8: [{technique: int8}]}\n"
    )
    for name, recipe in {"dense": (), "int8": INT8, "spare": INT8}.items():
        write_variant(catalog / name, name, recipe)
    (catalog / "catalog.json").write_text(cards.MODEL.model_dump_json())
    with Store(sqlite_url(folder / "state.db")) as store:
        for name in ("dense", "int8"):
            variant = Variant.model_validate_json((catalog / name / "variant.json").read_bytes())
            number = store.adopt(name, generations.digest(variant), variant.recipe)
            generations.adopt(catalog, name, number)
        meeting = ["dense", "int8"]
        administration = Administration(
            "shirts",
            store,
            catalog,
            project if has_project else None,
            "key",
            TOKENS,
            Rules(
                partial(check_recipe, limits=Builder()),
                partial(
                    preview_build, store=store, catalog=catalog, hardware_key="key", gate=Gate()
                ),
                lambda: meeting,
            ),
            max_body_bytes=MAX_BODY_BYTES,
            poll_s=POLL_S,
            is_inference_open=is_inference_open,
        )
        gateway = in_process(control=administration.control)
        yield Administered(store, catalog, administration, gateway, meeting)
        administration.stop()
        administration.close()
