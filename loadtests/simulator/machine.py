"""Simulated hosts on one machine: every batch has a core to itself, or as many share as there are.

A variant's hosts run so many batches at a time, and the others in the order in which they came.
With more batches at work than cores each gets an equal part of them, as a fair operating system
has it (processor sharing).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import TypeAlias

BatchKey: TypeAlias = tuple[int, int]
"""The gateway that sent it, and its number there."""


class SimulatedMachine:
    """Batches at work on cores that they share, and those that wait at their hosts."""

    def __init__(self, cores: float, slots: Mapping[str, int]) -> None:
        """`slots` says by variant how many batches its hosts run at a time."""
        self._cores = cores
        self._free = dict(slots)
        self._left_s: dict[BatchKey, float] = {}
        self._variant: dict[BatchKey, str] = {}
        self._waiting: dict[str, deque[tuple[BatchKey, float]]] = {name: deque() for name in slots}
        self._now = 0.0
        self._slowdown = 1.0

    def start(self, batch: BatchKey, variant: str, work_s: float, now: float) -> None:
        """Begin a batch that takes `work_s` on a core of its own, or let it wait for its host."""
        self._pass(now)
        self._variant[batch] = variant
        if self._free[variant]:
            self._free[variant] -= 1
            self._left_s[batch] = work_s
        else:
            self._waiting[variant].append((batch, work_s))

    def stop(self, batch: BatchKey, now: float) -> None:
        """End a batch, done or not."""
        self._pass(now)
        variant = self._variant.pop(batch)
        waiting = self._waiting[variant]
        if self._left_s.pop(batch, None) is None:
            self._waiting[variant] = deque(each for each in waiting if each[0] != batch)
        elif waiting:
            following, work_s = waiting.popleft()
            self._left_s[following] = work_s
        else:
            self._free[variant] += 1

    def slow_down(self, factor: float, now: float) -> None:
        """Let everything take `factor` times as long from now on: another tenant, a hot CPU."""
        self._pass(now)
        self._slowdown = factor

    def next_end(self) -> tuple[float, BatchKey]:
        """Return when the next batch will be done if nothing else starts, and which."""
        if not self._left_s:
            return math.inf, (-1, -1)
        batch = min(self._left_s, key=self._left_s.__getitem__)
        return self._now + self._left_s[batch] / self._speed(), batch

    def _speed(self) -> float:
        return min(1.0, self._cores / len(self._left_s)) / self._slowdown

    def _pass(self, now: float) -> None:
        if self._left_s:
            done_s = (now - self._now) * self._speed()
            for batch in self._left_s:
                self._left_s[batch] -= done_s
        self._now = now
