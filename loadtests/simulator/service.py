"""The parameters of a simulated service: variants, hosts and gateways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from loadtests.simulator.gateway_costs import GatewayCosts
from loadtests.simulator.timing import ReportCardTimes
from serving.routing.profile import VariantProfile

NO_COSTS: Final = GatewayCosts()
"""Costs of a gateway that takes no time."""


@dataclass(frozen=True, slots=True)
class SimulatedService:
    """The simulated variants, the machine that their hosts share, and the gateways.

    Each gateway has a core of its own.
    """

    profiles: Mapping[str, VariantProfile]
    cores: float
    """Number of batches that run at the same time at full speed."""
    slots: int = 1
    """Number of batches that the hosts of a variant run at a time."""
    max_batch: int = 64
    """Maximum number of samples in a batch."""
    max_queue: int = 2000
    """Maximum number of requests in the queue of a gateway."""
    link_s: float = 0.0
    """Round trip to a host, in seconds, added to each batch, which keeps its core meanwhile."""
    gateways: int = 1
    """Number of gateways; each has its own queue and receives a random, equal share of requests."""
    costs: GatewayCosts = NO_COSTS
    """CPU time that a gateway spends on each piece of work."""
    is_arrival_known: bool = True
    """Whether a gateway counts deadlines from the arrival of a request at its socket. Otherwise it
    counts them from the end of parsing, and does not know how long a request has waited."""

    def batch_times(self) -> dict[str, ReportCardTimes]:
        """Return the distribution of batch durations by variant."""
        return {
            n: ReportCardTimes(profile.latencies, self.link_s)
            for n, profile in self.profiles.items()
        }
