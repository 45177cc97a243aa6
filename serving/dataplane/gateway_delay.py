"""How much the gateway itself adds to the time of a request, and what follows from it.

The time from the return of a batch until an answer is rendered is set aside from each deadline. The
load shedder acts on the time in which a request waits for the gateway, not for a host.
"""

from __future__ import annotations

from typing import NamedTuple

from serving.dataplane.delivery import Delivery
from serving.dataplane.load_shedder import LoadShedder


class Admission(NamedTuple):
    """When a request was received and admitted. Times are in seconds of one clock."""

    received: float
    allowed_s: float
    at: float
    """When it was parsed and checked, and its time in the queue began."""
    delivery: Delivery
    """That of the answers of its transport."""
    delivery_s: float
    """The time that is set aside for delivering its answer."""
    waited_s: float = 0.0
    """Time in which it waited to be let in."""

    @property
    def deadline(self) -> float:
        """When its batch must be back at the gateway."""
        return self.received + self.allowed_s - self.delivery_s

    @property
    def outside_s(self) -> float:
        """The predicted time of the request outside of queue and batch."""
        return self.at - self.received + self.delivery_s

    @property
    def delay_s(self) -> float:
        """Time by which the gateway delayed the request before it was admitted.

        The wait to be let in does not count: it shows the limit of the load shedder, and a limit
        that was too low would keep itself low.
        """
        return self.at - self.received - self.waited_s


class GatewayDelay:
    """Observes the requests that were parsed."""

    def __init__(self, shedder: LoadShedder) -> None:
        """`shedder` learns what requests allow and what delays them."""
        self._shedder = shedder

    def admit(
        self,
        received: float,
        allowed_s: float,
        now: float,
        delivery: Delivery,
        waited_s: float = 0.0,
    ) -> Admission:
        """Record what a request allows, and set the time aside that its answer will take."""
        self._shedder.record_allowed(allowed_s)
        return Admission(received, allowed_s, now, delivery, delivery.reserve_s(now), waited_s)

    def record_answer(
        self,
        admission: Admission,
        now: float,
        *,
        queue_s: float,
        compute_s: float,
        returned_at: float,
    ) -> float:
        """Record an answer, and return the time from its arrival until it will be written.

        The request was queued for `queue_s`; its batch, computed in `compute_s`, was back at the
        gateway at `returned_at`.
        """
        written_at = now + admission.delivery.writing_s(now)
        took_s = written_at - admission.received
        before_s, after_s = admission.delay_s, written_at - returned_at
        way_s = returned_at - admission.at - queue_s - compute_s
        admission.delivery.record(now, after_s)
        # On its way a batch may also have waited for a host. The answer of the host waits for the
        # event loop about as long as a request does.
        delay_s = before_s + min(way_s, before_s) + after_s
        self._shedder.record_answer(now, delay_s, is_late=took_s > admission.allowed_s)
        return took_s

    def record_failure(self, admission: Admission, now: float, priority: int) -> None:
        """Record a request that was parsed and then refused for want of time or room."""
        self._shedder.record_failure(now, priority, admission.delay_s)
