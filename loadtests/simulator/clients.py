"""Clients of a simulated service: when each of them sends its next request.

Open-loop clients send at times that are known in advance, and may repeat refused requests.
Closed-loop clients send the next request once the one before is answered or refused.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from loadtests.simulator.gateway_costs import GatewayCosts
from loadtests.trials.outcomes import RequestStatus
from loadtests.workload.workload import SloClass, Workload


class Sending(NamedTuple):
    """A request that a client sends; order is by time, then by number."""

    at_s: float
    number: int
    """Sequence number of the sending."""
    class_: int
    """Index of the SLO class."""
    gateway: int
    """Index of the gateway to which the client is connected."""
    attempt: int = 1
    """Number of times this request has been sent, including this one."""


class ClientBehaviour(Protocol):
    """Decides whether and when a client sends again."""

    def next_sending(self, sent: Sending, status: RequestStatus, now: float) -> Sending | None:
        """Return what the client sends next after a response at `now`; None if nothing.

        The number of the result is not used.
        """


@dataclass(frozen=True, slots=True)
class Retries:
    """Open-loop clients that repeat a refused request (HTTP 429) after a delay.

    Each attempt is a request of its own, with the deadline counted from its own sending. The
    default never repeats.
    """

    max_attempts: int = 1
    delay_s: float = 0.0

    def next_sending(self, sent: Sending, status: RequestStatus, now: float) -> Sending | None:
        """Return the next attempt of a refused request."""
        if status != RequestStatus.SHED or sent.attempt >= self.max_attempts:
            return None
        return sent._replace(at_s=now + self.delay_s, attempt=sent.attempt + 1)


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Clients that each have one request at a time, from time 0 for `seconds`."""

    clients: int
    classes: tuple[SloClass, ...]
    seconds: float
    think_s: float = 0.0
    """Time between an answer and the next request of a client."""
    retry_s: float = 0.0
    """Time between an error and the next request of a client."""

    @property
    def name(self) -> str:
        """The name of the workload."""
        return f"{self.clients:,} closed-loop client{'s' if self.clients > 1 else ''}"

    def check(self, costs: GatewayCosts) -> None:
        """Raise ValueError if a client could send infinitely many requests at one time."""
        if not self.retry_s and not (costs.per_request_s or costs.per_refusal_s):
            raise ValueError(
                "closed-loop clients of a gateway that takes no time repeat refused requests "
                "infinitely often: give the gateway a cost per request or refusal, or the "
                "clients a delay after a refusal"
            )

    def next_sending(self, sent: Sending, status: RequestStatus, now: float) -> Sending | None:
        """Return the next request of the client; None after the end of the run."""
        wait_s = self.think_s if status == RequestStatus.ANSWERED else self.retry_s
        at_s = now + wait_s
        return sent._replace(at_s=at_s) if at_s < self.seconds else None


class Clients:
    """The requests that will be sent, as far as they are known."""

    def __init__(
        self,
        sendings: Sequence[Sending],
        behaviour: ClientBehaviour,
        connections: float = math.inf,
    ) -> None:
        """`sendings` are sorted; each connection carries one request at a time."""
        self._pending = list(sendings)  # a sorted list is a heap
        self._behaviour = behaviour
        self._count = len(self._pending)
        self._free_connections = connections

    @property
    def next_at(self) -> float:
        """When the next request is sent; infinite if none is known."""
        return self._pending[0].at_s if self._pending else math.inf

    @property
    def next_gateway(self) -> int:
        """Index of the gateway to which the next request is sent."""
        return self._pending[0].gateway

    def is_next(self, gateway: int, now: float) -> bool:
        """Whether the next request is sent at `now` to this gateway."""
        return bool(self._pending) and (
            self._pending[0].at_s == now and self._pending[0].gateway == gateway
        )

    def send(self) -> Sending | None:
        """Remove the next request and return it; None if no connection is free for it."""
        sending = heapq.heappop(self._pending)
        if not self._free_connections:
            return None
        self._free_connections -= 1
        return sending

    def receive(self, sent: Sending, status: RequestStatus, now: float) -> None:
        """Let the client of a request receive its response."""
        self._free_connections += 1
        sending = self._behaviour.next_sending(sent, status, now)
        if sending is not None:
            heapq.heappush(self._pending, sending._replace(number=self._count))
            self._count += 1


def open_loop(
    workload: Workload,
    gateways: int,
    rng: np.random.Generator,
    retries: Retries,
    connections: float,
) -> Clients:
    """Return clients that send the requests of a workload, each to a random gateway."""
    count = len(workload)
    columns = (
        workload.arrivals_s.tolist(),
        range(count),
        workload.class_of.tolist(),
        rng.integers(0, gateways, count).tolist(),
    )
    return Clients([Sending(*row) for row in zip(*columns, strict=True)], retries, connections)


def closed_loop(loop: ClosedLoop, gateways: int, rng: np.random.Generator) -> Clients:
    """Return closed-loop clients, each with a random class and connected to a random gateway.

    The probabilities of the classes are their shares.
    """
    shares = np.array([each.share for each in loop.classes])
    columns = (
        range(loop.clients),
        rng.choice(len(shares), loop.clients, p=shares / shares.sum()).tolist(),
        rng.integers(0, gateways, loop.clients).tolist(),
    )
    return Clients([Sending(0.0, *row) for row in zip(*columns, strict=True)], loop)
