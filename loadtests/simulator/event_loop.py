"""An event loop on a virtual clock: one thread that runs callbacks, each of which takes time.

    readable sockets ─▶ turn: callbacks of the turn before, then one per socket ─▶ effects

As in libuv and asyncio, a turn reads the sockets that are ready when it begins. What becomes ready
or is scheduled meanwhile waits for the next turn.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

Effect: TypeAlias = Callable[[], None]
"""What a callback does, at the time at which it ends."""


class EventLoop:
    """Callbacks that run one after the other. All costs are in seconds."""

    def __init__(self, per_turn_s: float = 0.0) -> None:
        """`per_turn_s` is the cost of a turn without its callbacks."""
        self.slowdown = 1.0
        """Factor of all costs; it applies to callbacks that start from now on."""
        self.next_at = math.inf
        """When the running callback ends; infinite if the loop is idle."""
        self.busy_s = 0.0
        """Time of all callbacks, including the running one."""
        self._per_turn_s = per_turn_s
        self._effect: Effect | None = None
        self._immediate: deque[tuple[float, Effect]] = deque()
        self._turn: deque[tuple[float, Effect]] = deque()
        self._next_turn: deque[tuple[float, Effect]] = deque()
        self._readable: deque[tuple[float, Effect]] = deque()

    def call_next(self, cost_s: float, effect: Effect) -> None:
        """Run a callback before all that wait: the rest of the running one, or polled work."""
        self._immediate.append((cost_s, effect))

    def call_in_turn(self, cost_s: float, effect: Effect) -> None:
        """Run a callback at the end of the current turn."""
        self._turn.append((cost_s, effect))

    def call_soon(self, cost_s: float, effect: Effect) -> None:
        """Run a callback at the start of the next turn."""
        self._next_turn.append((cost_s, effect))

    def call_when_read(self, cost_s: float, effect: Effect) -> None:
        """Run a callback when the next turn reads its socket, which is readable from now on."""
        self._readable.append((cost_s, effect))

    def run(self, now: float) -> None:
        """Run callbacks until one takes time, which ends at `next_at`, or none is left."""
        if now < self.next_at < math.inf:
            return
        while True:
            if self._effect is not None:
                effect, self._effect, self.next_at = self._effect, None, math.inf
                effect()
            elif self._immediate:
                self._start(*self._immediate.popleft(), now)
            elif self._turn:
                self._start(*self._turn.popleft(), now)
            elif self._next_turn or self._readable:
                self._next_turn += self._readable
                self._turn, self._next_turn = self._next_turn, self._turn
                self._readable.clear()
                if self._per_turn_s:
                    self._start(self._per_turn_s, _do_nothing, now)
            else:
                return
            if self.next_at < math.inf:
                return

    def _start(self, cost_s: float, effect: Effect, now: float) -> None:
        if cost_s:
            took_s = cost_s * self.slowdown
            self._effect, self.next_at = effect, now + took_s
            self.busy_s += took_s
        else:
            effect()


def _do_nothing() -> None:
    """The effect of a turn without its callbacks."""
