"""A request on its way through the data plane, and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serving.dataplane.batching import Arrays
from serving.dataplane.gateway_delay import Admission
from serving.dataplane.request import OnEnd, PendingRequest
from serving.dataplane.served import ServedVariants
from serving.experiment.assignment import Arm
from serving.routing.policy.state import QueuedRequest
from serving.routing.slo import Slo


@dataclass(slots=True)
class Answer:
    """The answer to a request: the outputs of a variant, and why that variant was chosen."""

    variant: str
    """Name of the variant."""
    outputs: Arrays
    explanation: Mapping[str, str | float | bool]


@dataclass(eq=False, slots=True)
class Call:
    """What the data plane knows of a request until it has ended."""

    slo: Slo
    served: ServedVariants
    """The variants that were served when it was admitted."""
    received: float
    """When it arrived, in seconds of the gateway's clock."""
    on_end: OnEnd[Answer]
    variants: tuple[str, ...] = ()
    """Routing keys of the variants that may answer it, best first; empty until they are known."""
    arm: Arm | None = None
    """Its arm in an experiment, if any."""
    admission: Admission | None = None
    """When it was admitted; None until then."""
    request: QueuedRequest[PendingRequest[Arrays, Arrays]] | None = None
    """The request in the scheduler; None until it is queued."""
