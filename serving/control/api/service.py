"""Requests to change the variants of a service, independent of HTTP and gRPC.

    request ─▶ VariantService ─▶ store ─▶ reconciler and agents

All methods block: they read files and the database, and are called on threads. They raise leaves of
`ServingError`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from serving.control.api.bodies import Addition, Publication, Replacement, Rollback
from serving.control.api.sources import InCatalog, OnDisk, Sources, ToBuild, former_generation
from serving.control.api.views import Preview, variant_state
from serving.control.state import Job, VariantRecord
from serving.control.store.store import Store
from serving.control.store.submissions import Origin
from serving.errors import Conflict, ModelNotFound
from variants.catalog.recipe import DENSE, Recipe


@dataclass(frozen=True)
class Rules:
    """What other parts of the service decide."""

    check_recipe: Callable[[Recipe], None]
    """Raises `InvalidRequest` for a recipe that may not be built."""
    preview: Callable[[str, Recipe], Preview]
    """Returns what it would take to build a recipe under the name of a variant."""
    meeting_default_slo: Callable[[], Collection[str]]
    """Returns the served variants that meet the default SLO. To be called on the event loop."""


class VariantService:
    """Changes the desired state of a service."""

    def __init__(self, store: Store, sources: Sources, rules: Rules) -> None:
        self._store = store
        self._sources = sources
        self._rules = rules

    def find(self, name: str) -> tuple[VariantRecord | None, Job | None]:
        """Return a variant if the service knows it, and its job in progress, if any."""
        jobs = self._store.jobs(active_only=True)
        return self._find(name), next((job for job in jobs if job.variant == name), None)

    def has_new_artifact(self, name: str) -> bool:
        """Return whether the catalog has an artifact that is not a generation of the variant."""
        return self._sources.new_artifact(name, self._find(name)) is not None

    def unloaded(self) -> Mapping[str, str]:
        """Return the variants that can be published, with the reason why each is not served."""
        found = dict.fromkeys(self._sources.names(), "it is in the catalog and not loaded")
        for record in self._store.variants():
            if record.published is not None:
                found.pop(record.name, None)
            elif record.generations:
                # The last error may name paths; it is shown to those who have a token.
                found[record.name] = f"it is not loaded: {variant_state(record)}"
        return found

    def submitted(self, origin: Origin) -> Job | None:
        """Return the job of an earlier request with the same idempotency key, if any.

        Raises `Conflict` if that was another request.
        """
        return None if origin.idempotency_key is None else self._store.submitted(origin)

    def add(self, body: Addition, origin: Origin) -> Job | Preview:
        """Add a variant, or publish one again that was removed."""
        return self._submit(body.name, body, origin, must_exist=False)

    def replace(self, name: str, body: Replacement, origin: Origin) -> Job | Preview:
        """Make a new generation of a variant that is served."""
        return self._submit(name, body, origin, must_exist=True)

    def roll_back(self, name: str, body: Rollback, origin: Origin) -> Job:
        """Publish a former generation."""
        record = self._store.variant(name)
        number = body.generation
        if number is None:
            former = former_generation(record)
            if former is None:
                raise Conflict(f"there is no former generation of {name} on disk to return to")
            number = former.number
        else:
            self._check_publishable(record, number, states=("kept", "draining"))
        return self._publish(name, number, origin, body.reason)

    def publish(self, name: str, body: Publication, origin: Origin) -> Job:
        """Publish a generation by hand, whatever the gate found."""
        record = self._store.variant(name)
        states = ("kept", "draining", "rejected", "failed")
        self._check_publishable(record, body.generation, states=states)
        return self._publish(name, body.generation, origin, body.reason)

    def meeting_slo(self) -> frozenset[str]:
        """Return the variants that meet the default SLO.

        Does not block. To be called on the event loop, for `remove`.
        """
        return frozenset(self._rules.meeting_default_slo())

    def remove(
        self,
        name: str,
        origin: Origin,
        meeting_slo: Collection[str],
        *,
        force: bool,
        reason: str | None,
    ) -> Job:
        """Drain a variant and stop its hosts; only `force` removes the last of `meeting_slo`."""
        return self._store.submit_remove(
            name,
            origin.actor,
            meeting_slo=meeting_slo,
            force=force,
            idempotency_key=origin.idempotency_key,
            body_sha256=origin.body_sha256,
            reason=reason,
        )

    def cancel(self, identifier: str, actor: str) -> Job:
        """Cancel a job; it ends soon. Raises `Conflict` if it has ended."""
        return self._store.cancel(identifier, actor)

    def _submit(
        self, name: str, body: Replacement, origin: Origin, *, must_exist: bool
    ) -> Job | Preview:
        record = self._find(name)
        is_served = record is not None and record.published is not None
        self._check_exists(name, is_served=is_served, must_exist=must_exist)
        source = self._source(name, record, body.recipe, is_served=is_served)
        if body.dry_run:
            return self._dry_run(name, source)
        if isinstance(source, InCatalog):
            source = self._sources.adopt(name, source, origin.actor)
        if isinstance(source, OnDisk):
            self._sources.copy(name, source.number)
            return self._publish(name, source.number, origin, body.reason)
        return self._store.submit_build(
            name,
            source.recipe,
            origin.actor,
            must_exist=must_exist,
            idempotency_key=origin.idempotency_key,
            body_sha256=origin.body_sha256,
            force=body.force,
            reason=body.reason,
        )

    def _source(
        self,
        name: str,
        record: VariantRecord | None,
        recipe: Recipe | str | None,
        *,
        is_served: bool,
    ) -> ToBuild | OnDisk | InCatalog:
        if recipe is None and is_served:
            # What is kept is what was replaced: a replacement is new.
            source: ToBuild | OnDisk | InCatalog
            source = self._sources.new_artifact(name, record) or ToBuild(
                self._sources.recipe_named(name)
            )
        elif recipe is None:
            source = self._sources.find(name, record)
        elif isinstance(recipe, str):
            source = ToBuild(self._sources.recipe_named(recipe))
        else:
            source = ToBuild(recipe)
        if isinstance(source, ToBuild):
            self._sources.check_can_build()
            if name == DENSE:
                raise Conflict("dense is the model itself: it is not built from a recipe")
            self._rules.check_recipe(source.recipe)
        return source

    def _dry_run(self, name: str, source: ToBuild | OnDisk | InCatalog) -> Preview:
        if isinstance(source, ToBuild):
            return self._rules.preview(name, source.recipe)
        recipe = source.variant.recipe if isinstance(source, InCatalog) else source.recipe
        return Preview(
            kind="publish",
            recipe=recipe,
            generation=source.number if isinstance(source, OnDisk) else None,
            estimate_s=None,
            estimated_memory_bytes=None,
            estimated_bytes=None,
            checks=(),
            notes=("it is on disk: nothing is built, and its hosts are started at once",),
        )

    def _publish(self, name: str, number: int, origin: Origin, reason: str | None) -> Job:
        # Its hosts would find it later, after some attempts to start.
        self._sources.check_files(self._store.generation(name, number))
        return self._store.submit_publish(
            name,
            number,
            origin.actor,
            idempotency_key=origin.idempotency_key,
            body_sha256=origin.body_sha256,
            reason=reason,
        )

    def _check_exists(self, name: str, *, is_served: bool, must_exist: bool) -> None:
        if is_served and not must_exist:
            raise Conflict(f"the variant {name} is served already; replace it instead")
        if must_exist and not is_served:
            self._store.variant(name)  # raises ModelNotFound
            raise Conflict(f"the variant {name} is not served; add it instead")

    def _check_publishable(
        self, record: VariantRecord, number: int, states: Collection[str]
    ) -> None:
        by_number = {each.number: each for each in record.generations}
        possible = [str(n) for n, each in by_number.items() if each.state in states and each.digest]
        there_are = f"there are {', '.join(possible)}" if possible else "there is none"
        if number not in by_number or by_number[number].state == "deleted":
            raise ModelNotFound(
                f"{record.name} has no generation {number} on disk; of those that can be "
                f"published {there_are}"
            )
        if str(number) not in possible:
            raise Conflict(
                f"generation {number} of {record.name} is {by_number[number].state}; of those "
                f"that can be published {there_are}"
            )

    def _find(self, name: str) -> VariantRecord | None:
        try:
            return self._store.variant(name)
        except ModelNotFound:
            return None
