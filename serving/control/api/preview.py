"""What a build would take: time from former jobs, size and memory from report cards."""

from __future__ import annotations

from pathlib import Path

from serving.control.api.views import Preview
from serving.control.gate import describe
from serving.control.settings import Gate
from serving.control.size_estimate import estimate_size
from serving.control.state import Job
from serving.control.store.store import Store
from serving.control.time_estimate import estimate_s, typical_seconds
from variants.catalog.catalog import Catalog
from variants.catalog.recipe import Recipe


def preview_build(
    name: str, recipe: Recipe, *, store: Store, catalog: Path, hardware_key: str, gate: Gate
) -> Preview:
    """Return what it would take to build a valid recipe as the variant `name`. Blocks.

    Report cards of the hardware `hardware_key` count, or of any if there is none.
    """
    records = Catalog.load(catalog)
    sizes = estimate_size(recipe, records, hardware_key)
    if sizes.served_bytes is None:
        sizes = estimate_size(recipe, records)
    job = Job(
        id="",
        kind="build",
        variant=name,
        generation=None,
        status="queued",
        stage="queued",
        share=0.0,
        recipe=recipe,
        actor="",
        created_at=0.0,
    )
    former = [each for each in store.jobs() if each.status == "succeeded"]
    took_s = estimate_s(job, typical_seconds(job, former), 0.0)
    notes = [f"size and memory: {sizes.basis}"]
    notes.append("time: former builds" if took_s is not None else "time: nothing was built yet")
    waiting = [each for each in store.jobs(active_only=True) if each.kind == "build"]
    if waiting:
        notes.append(f"builds before this one, which the estimate leaves out: {len(waiting)}")
    return Preview(
        kind="build",
        recipe=recipe,
        generation=None,
        estimate_s=took_s,
        estimated_memory_bytes=sizes.resident_bytes,
        estimated_bytes=sizes.served_bytes,
        checks=describe(gate),
        notes=tuple(notes),
    )
