"""A front door that refuses by a limit that the test sets."""

from __future__ import annotations

from serving.dataplane.load_shedder import LoadShedder
from serving.dataplane.refusal_pacer import RefusalPacer
from serving.protocol.front_door import FrontDoor
from serving.routing.slo import DEFAULT_PRIORITY


class KeptLimit(LoadShedder):
    """A load shedder that keeps its limit, however slow the test is."""

    def _forget(self, now: float) -> None:
        pass

    def _increase(self) -> None:
        pass


class FixedHold(RefusalPacer):
    """A pacer that holds every refusal for the same time."""

    def __init__(self, held_s: float) -> None:
        self._held_s = held_s

    def hold_s(self, now: float) -> float:
        return self._held_s


class Door:
    """A front door with a limit; `refused` counts the refusals."""

    def __init__(self, limit: float, inside: int = 0) -> None:
        self.refused = 0
        self.shedder = KeptLimit()
        self.shedder.limit = limit
        self.door = FrontDoor(self.shedder, self._count)
        for _ in range(inside):
            self.shedder.enter(DEFAULT_PRIORITY)

    def open(self) -> None:
        """Let in the requests of the default priority from now on."""
        for _ in range(self.shedder.inside):
            self.door.leave(DEFAULT_PRIORITY)

    def hold(self, held_s: float = 3600.0) -> None:
        """Hold each refusal for this time from now on."""
        self.door._pacer = FixedHold(held_s)

    def has_waiting(self, count: int) -> bool:
        """Return whether this many requests wait to be let in."""
        return len(self.door._room) == count

    def _count(self) -> None:
        self.refused += 1


def shut() -> Door:
    """Return a door that refuses every inference request of the default priority."""
    return Door(limit=8, inside=8)
