"""The slots of the variants: how many batches each can run, and which batches are running.

A slot runs one batch at a time. A running batch also needs a core, and all variants share the
cores.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from serving.routing.latency import LatencyModel
from serving.routing.policy.state import VariantState

MIN_REMAINING_RATIO: Final = 0.1
"""Lower bound of the remaining time of a running batch, as a share of its typical time. It
applies to batches that are overdue."""

MAX_STATE_AGE_S: Final = 0.001
"""Maximum age, in seconds, of states that `recent_states` returns."""


@dataclass(slots=True)
class RunningBatch:
    """A batch that was sent and has not ended."""

    variant: str
    size: int
    sent: float
    due: float
    """When it ends if it takes the median time."""

    def left_s(self, now: float) -> float:
        """Return the expected remaining time, in seconds; more than 0 for an overdue batch."""
        return max(self.due - now, MIN_REMAINING_RATIO * (self.due - self.sent))

    def overdue_s(self, now: float) -> float:
        """Return by how much it exceeds its median time, in seconds; 0 if it does not."""
        return max(0.0, now - self.due)


class VariantSlots:
    """The slots of each variant and the batches that run on them."""

    def __init__(
        self,
        latency: LatencyModel,
        accuracies: Mapping[str, float],
        *,
        max_batch: int,
        cores: float,
    ) -> None:
        """`accuracies` maps variants, best first, to the accuracies of their tiers; `cores` is the
        number of batches that run at once without slowing each other down.
        """
        self._latency = latency
        self._max_batch = max_batch
        self._cores = cores
        self._slots: dict[str, int] = {}
        self._batches_sent: dict[str, int] = {}
        self._numbers = itertools.count()
        self._running: dict[int, RunningBatch] = {}
        self._shadows: set[int] = set()
        """Numbers of the running batches that answer no request."""
        self._by_variant: dict[str, set[int]] = {}
        self._unavailable_since: dict[str, float] = {}
        self._have_slots_changed = False
        """Whether `record_outages` has to look."""
        self._recent: dict[tuple[str, ...], list[VariantState]] = {}
        """States of `recent_states`, all of the time `_recent_at`."""
        self._recent_at = -math.inf
        self.set_variants(accuracies)

    def set_variants(self, accuracies: Mapping[str, float]) -> None:
        """Keep these variants, best first; new ones have no slots. Forget all others.

        Raises `ValueError` if one of the others still runs a batch.
        """
        busy = [name for name, own in self._by_variant.items() if own and name not in accuracies]
        if busy:
            raise ValueError(f"batches are running on {', '.join(busy)}")
        self._accuracies = accuracies
        self._slots = {name: self._slots.get(name, 0) for name in accuracies}
        self._batches_sent = {name: self._batches_sent.get(name, 0) for name in accuracies}
        self._by_variant = {name: self._by_variant.get(name, set()) for name in accuracies}
        self._best_case_s = {name: partial(self._latency.best_case_s, name) for name in accuracies}
        for name in self._unavailable_since.keys() - accuracies.keys():
            del self._unavailable_since[name]
        self._have_slots_changed = True
        self._recent.clear()

    def __contains__(self, variant: str) -> bool:
        """Return whether this is one of the variants, with or without a live replica."""
        return variant in self._slots

    def __getitem__(self, variant: str) -> int:
        """Return how many batches the live replicas of a variant run at a time."""
        return self._slots.get(variant, 0)

    def __setitem__(self, variant: str, slots: int) -> None:
        """Set how many batches the live replicas of a variant run at a time; 0 without replicas.

        Raises `KeyError` for an unknown variant.
        """
        if variant not in self._slots:
            raise KeyError(variant)
        self._slots[variant] = slots
        self._have_slots_changed = True
        self._recent.clear()

    def is_running(self, variant: str) -> bool:
        """Return whether a batch is running on this variant."""
        return bool(self._by_variant[variant])

    def has_free(self, names: Iterable[str]) -> bool:
        """Return whether one of these variants has a free slot, and a core is free.

        Shadow batches do not count: no request is to be refused on their account.
        """
        return len(self._running) - len(self._shadows) + 1 <= self._cores and any(
            len(self._by_variant[name] - self._shadows) < self._slots[name] for name in names
        )

    @property
    def is_busy(self) -> bool:
        """True if a batch is running."""
        return bool(self._running)

    @property
    def free_cores(self) -> float:
        """Number of further batches that can run without slowing down the running ones."""
        return max(0.0, self._cores - len(self._running))

    @property
    def concurrency(self) -> float:
        """Number of batches that can run at a time: at most the slots and at most the cores."""
        return min(self._cores, sum(self._slots.values()))

    def start(self, variant: str, size: int, now: float, *, is_shadow: bool = False) -> int:
        """Record that a batch is sent, and return its number."""
        number = next(self._numbers)
        if is_shadow:
            self._shadows.add(number)
        typical_s = self._latency.times(variant).typical_s(size)
        self._running[number] = RunningBatch(variant, size, now, now + typical_s)
        self._by_variant[variant].add(number)
        self._batches_sent[variant] += 1
        self._recent.clear()
        return number

    def end(self, number: int) -> RunningBatch:
        """Record that a batch has ended, and return it."""
        running = self._running.pop(number)
        self._by_variant[running.variant].discard(number)
        self._shadows.discard(number)
        self._recent.clear()
        return running

    def variant_states(
        self, now: float, names: Collection[str] | None = None
    ) -> dict[str, VariantState]:
        """Return the states of those of the named variants that have a live replica.

        `names` of None means all variants. The order is that of the accuracies.
        """
        has_core = len(self._running) + 1 <= self._cores
        core_in_s = 0.0 if has_core else self._next_end_s(self._running, now)
        states: dict[str, VariantState] = {}
        for name, slots in self._slots.items():
            if not slots or (names is not None and name not in names):
                continue
            own = self._by_variant[name]
            empty = max(0, slots - len(own))
            states[name] = VariantState(
                name,
                self._accuracies[name],
                slots,
                empty if has_core else 0,
                core_in_s if empty else max(self._next_end_s(own, now), core_in_s),
                self._max_batch,
                self._latency.times(name),
                self._best_case_s[name],
                self._batches_sent[name],
                0.0 if empty else min(self._running[number].overdue_s(now) for number in own),
            )
        return states

    def recent_states(self, now: float, names: tuple[str, ...]) -> list[VariantState]:
        """Return the states of `variant_states` as of up to `MAX_STATE_AGE_S` ago, as a list.

        The states are at least as recent as the last start or end of a batch. This is for
        estimates that are made for each request: many arrive in one iteration of the event loop.
        """
        if not 0 <= now - self._recent_at <= MAX_STATE_AGE_S:
            self._recent.clear()
        if not self._recent:
            self._recent_at = now
        states = self._recent.get(names)
        if states is None:
            states = list(self.variant_states(self._recent_at, names).values())
            self._recent[names] = states
        return states

    def record_outages(self, now: float) -> None:
        """Record for each variant since when it has had no live replica."""
        if not self._have_slots_changed:
            return
        self._have_slots_changed = False
        for name, slots in self._slots.items():
            if slots:
                self._unavailable_since.pop(name, None)
            else:
                self._unavailable_since.setdefault(name, now)

    def unavailable_since(self, names: Collection[str]) -> float | None:
        """Return since when none of these variants has had a live replica; None if one has.

        The time is that of `record_outages`, or minus infinity before its first call.
        """
        if any(map(self._slots.get, names)):
            return None
        return max(self._unavailable_since.get(name, -math.inf) for name in names)

    def _next_end_s(self, numbers: Iterable[int], now: float) -> float:
        return min(self._running[number].left_s(now) for number in numbers)
