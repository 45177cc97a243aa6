"""Simulated hosts on one machine whose cores they share.

The hosts of a variant run a limited number of batches at a time; further batches wait in order of
arrival. If more batches run than there are cores, each gets an equal share of the cores (processor
sharing), as under a fair operating system scheduler.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import TypeAlias

BatchKey: TypeAlias = tuple[int, int]
"""Index of the gateway that sent the batch, and the number of the batch at that gateway."""


class SimulatedMachine:
    """Batches that run on shared cores, and batches that wait for their hosts."""

    def __init__(self, cores: float, slots: Mapping[str, int]) -> None:
        """`slots` is the number of batches that the hosts of a variant run at a time."""
        self._cores = cores
        self._free = dict(slots)
        self._left_s: dict[BatchKey, float] = {}
        self._variant: dict[BatchKey, str] = {}
        self._waiting: dict[str, deque[tuple[BatchKey, float]]] = {name: deque() for name in slots}
        self._started_at: dict[BatchKey, float] = {}
        self._now = 0.0
        self._slowdown = 1.0

    def start(self, batch: BatchKey, variant: str, work_s: float, now: float) -> None:
        """Start a batch that takes `work_s` alone on a core, or queue it if no slot is free."""
        self._advance(now)
        self._variant[batch] = variant
        if self._free[variant]:
            self._free[variant] -= 1
            self._run(batch, work_s)
        else:
            self._waiting[variant].append((batch, work_s))

    def stop(self, batch: BatchKey, now: float) -> float:
        """Remove a batch, whether it is complete, running or waiting.

        Returns the seconds for which it has run.
        """
        self._advance(now)
        variant = self._variant.pop(batch)
        waiting = self._waiting[variant]
        if self._left_s.pop(batch, None) is None:
            self._waiting[variant] = deque(each for each in waiting if each[0] != batch)
            return 0.0
        if waiting:
            self._run(*waiting.popleft())
        else:
            self._free[variant] += 1
        return now - self._started_at.pop(batch)

    def slow_down(self, factor: float, now: float) -> None:
        """Multiply the remaining time of all batches by `factor` from now on; 1 is normal speed."""
        self._advance(now)
        self._slowdown = factor

    def next_completion(self) -> tuple[float, BatchKey]:
        """Return when the next batch completes if no other batch starts, and its key."""
        if not self._left_s:
            return math.inf, (-1, -1)
        batch = min(self._left_s, key=self._left_s.__getitem__)
        return self._now + self._left_s[batch] / self._speed(), batch

    def _run(self, batch: BatchKey, work_s: float) -> None:
        self._left_s[batch] = work_s
        self._started_at[batch] = self._now

    def _speed(self) -> float:
        return min(1.0, self._cores / len(self._left_s)) / self._slowdown

    def _advance(self, now: float) -> None:
        """Deduct the work that was done since the last call."""
        if self._left_s:
            done_s = (now - self._now) * self._speed()
            for batch in self._left_s:
                self._left_s[batch] -= done_s
        self._now = now
