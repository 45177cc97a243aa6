"""Which queued requests are shed to make room for a new one: the least important ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic

from serving.errors import Overloaded
from serving.routing.admission import is_in_time, lateness_s
from serving.routing.policy.state import LaneKey, Payload, QueuedRequest
from serving.routing.queue import DeadlineQueue
from serving.routing.slots import VariantSlots


class Shedding(Generic[Payload]):
    """Takes requests of lower priority out of a queue."""

    def __init__(self, queue: DeadlineQueue[Payload], slots: VariantSlots, cores: float) -> None:
        """`cores` is the number of batches that run at once without slowing each other down."""
        self._queue = queue
        self._slots = slots
        self._cores = cores

    def shed_until_in_time(
        self,
        key: LaneKey,
        size: int,
        deadline: float,
        priority: int,
        now: float,
        shed: list[tuple[QueuedRequest[Payload], Overloaded]],
    ) -> None:
        """Shed requests of lower priority until all can be in time with the new one.

        Appends the shed requests and their errors to `shed`. Raises `Overloaded` if shedding
        cannot make enough time.
        """
        left_s = deadline - now
        live = self._slots.recent_states(now, key.variants)
        if not live:
            return
        if is_in_time(live, self._queue.samples + size, left_s):
            return
        queued = len(self._queue)
        alone_s = lateness_s(live, 0, size, left_s, self._cores)
        if alone_s > 0:
            raise _too_late(queued, alone_s)
        checks = [deadline, *(d for d in self._queue.last_deadlines() if deadline < d < math.inf)]
        for due in checks:
            while True:
                ahead = self._queue.samples_before(due, key.variants)
                late_s = lateness_s(live, ahead, size, due - now, self._cores)
                if late_s <= 0:
                    break
                victim = self.take_least_important(
                    priority, _too_late(queued, late_s), due, key.variants
                )
                error = Overloaded(
                    f"{queued} requests were queued, and one of higher priority took its place; "
                    "try again later",
                    retry_after_s=late_s,
                )
                shed.append((victim, error))

    def take_least_important(
        self,
        priority: int,
        error: Overloaded,
        before: float = math.inf,
        variants: Sequence[str] | None = None,
    ) -> QueuedRequest[Payload]:
        """Take the least important request out of the queue.

        Raises `error` if no queued request is less important than `priority`.
        """
        request = self._queue.take_least_important(priority, before=before, variants=variants)
        if request is None:
            raise error
        return request


def _too_late(queued: int, late_s: float) -> Overloaded:
    return Overloaded(
        f"{queued} requests are queued: this one, or one as important, would be about "
        f"{late_s * 1e3:.1f} ms late; try again later or allow more time",
        retry_after_s=late_s,
    )
