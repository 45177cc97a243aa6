"""Keeps one gateway equal to the desired state, and reports what the gateway sees.

    store ─▶ lineup and records ─▶ gateway
    gateway ─▶ reports, which are also its heartbeat ─▶ store

Several gateways share a store, and each has an agent. While the store does not answer, a gateway
serves what it served before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from serving.control.cluster import GenerationKey
from serving.control.state import Lineup, ReplicaReport
from serving.control.store.store import Store
from serving.control.wake import wait_for_wake
from variants.catalog.catalog import Variant
from variants.catalog.generations import digest
from variants.catalog.storage import Storage, load

logger = logging.getLogger(__name__)

HEARTBEAT_S: Final = 1.0
"""Longest time, in seconds, between two reports of a gateway."""

RELOAD_S: Final = 5.0
"""Time, in seconds, after which a generation that could not be read is read again."""


class Gateway(Protocol):
    """What an agent needs of its gateway."""

    @property
    def name(self) -> str:
        """What identifies it in reports."""

    def update(self, lineup: Lineup, records: Mapping[GenerationKey, Variant]) -> None:
        """Serve and time the generations of a lineup from now on; drop all others."""

    def reports(self) -> Sequence[ReplicaReport]:
        """Return what the gateway sees of each generation of the lineup, and of draining ones."""


@dataclass(frozen=True)
class _Loaded:
    """A lineup without the generations whose records cannot be read, and why they cannot."""

    lineup: Lineup
    records: Mapping[GenerationKey, Variant]
    errors: Mapping[GenerationKey, str]


class Agent:
    """Follows the store on behalf of one gateway."""

    def __init__(
        self,
        gateway: Gateway,
        store: Store,
        catalog: Path,
        *,
        poll_s: float,
        storage: Storage | None = None,
        excluded: frozenset[GenerationKey] = frozenset(),
        on_report: Callable[[], None] = lambda: None,
    ) -> None:
        """Records that are not on this node are read from `storage`.

        `excluded` generations are not served. `on_report` is called when what the gateway sees has
        changed and is reported.
        """
        self._gateway = gateway
        self._store = store
        self._catalog = catalog
        self._poll_s = poll_s
        self._storage = storage
        self._excluded = excluded
        self._on_report = on_report
        self._loaded: _Loaded | None = None
        self._loaded_at = 0.0
        self._reported: list[ReplicaReport] | None = None
        self._reported_at = 0.0
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look at the store at once. To be called on the event loop."""
        self._wake.set()

    def look(self) -> None:
        """Report at once if what the gateway sees has changed. To be called on the event loop."""
        if self._reported is not None and _without_time(self._reports()) != self._reported:
            self.wake()

    async def run(self) -> None:
        """Follow the store until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.step()
            except Exception:
                logger.exception("the state cannot be read or written; serving the last lineup")
            await wait_for_wake(self._wake, self._poll_s)

    async def step(self) -> None:
        """Bring the gateway up to date once, then report; raise if the store does not answer."""
        loaded = await asyncio.to_thread(self._load_if_changed)
        if loaded is not None:
            for key, error in loaded.errors.items():
                logger.error(
                    "a generation cannot be served",
                    extra={"variant": key[0], "generation": key[1], "cause": error},
                )
            self._gateway.update(loaded.lineup, loaded.records)
            self._loaded, self._loaded_at = loaded, time.monotonic()
        reports = self._reports()
        is_new = _without_time(reports) != self._reported
        if is_new or time.monotonic() - self._reported_at > HEARTBEAT_S:
            await asyncio.to_thread(self._store.report, self._gateway.name, reports)
            self._reported, self._reported_at = _without_time(reports), time.monotonic()
        if is_new:
            self._on_report()

    def _load_if_changed(self) -> _Loaded | None:
        """Read the lineup and its records if there may be news."""
        if self._loaded is not None:
            is_failed = bool(self._loaded.errors)
            is_due = is_failed and time.monotonic() - self._loaded_at > RELOAD_S
            if not is_due and self._store.revision() == self._loaded.lineup.revision:
                return None
        lineup = self._store.lineup()
        records: dict[GenerationKey, Variant] = {}
        errors: dict[GenerationKey, str] = {}
        known = self._loaded.records if self._loaded is not None else {}
        for key in {*lineup.published.items(), *lineup.warming.items()} - self._excluded:
            try:
                # A generation does not change, so its record is read once.
                records[key] = known.get(key) or self._load(key)
            except ValueError as error:
                errors[key] = str(error)
        lineup = lineup.model_copy(
            update={
                "published": {k: n for k, n in lineup.published.items() if (k, n) in records},
                "warming": {k: n for k, n in lineup.warming.items() if (k, n) in records},
            }
        )
        return _Loaded(lineup, records, errors)

    def _load(self, key: GenerationKey) -> Variant:
        """Return the record of a generation.

        Raises `ValueError` if its files are missing, damaged, or not those that the state knows.
        """
        record = load(self._storage, self._catalog, *key)
        expected = self._store.generation(*key).digest
        if expected is not None and digest(record) != expected:
            raise ValueError(
                f"the files of generation {key[1]} of {key[0]} were replaced by others (digest "
                f"{digest(record)[:12]} instead of {expected[:12]}): put these back, or publish a "
                "new generation with `paretoserve variants replace`"
            )
        return record

    def _reports(self) -> list[ReplicaReport]:
        return [*self._gateway.reports(), *self._failed()]

    def _failed(self) -> list[ReplicaReport]:
        """Return reports on the generations whose records cannot be read."""
        errors = self._loaded.errors if self._loaded is not None else {}
        return [
            ReplicaReport(
                gateway=self._gateway.name,
                variant=variant,
                generation=number,
                state="failed",
                replicas=0,
                error=error,
                at=time.time(),
            )
            for (variant, number), error in errors.items()
        ]


def _without_time(reports: Sequence[ReplicaReport]) -> list[ReplicaReport]:
    """Return reports that are equal if what they report is."""
    return [report.model_copy(update={"at": 0.0}) for report in reports]
