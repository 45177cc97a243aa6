"""The path of a request, free of HTTP, gRPC and Ray.

    check ─▶ which variants qualify ─▶ scheduler ─▶ explain, count

`protocol/` parses what comes in and renders what goes out; the scheduler's `run` does the work.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

from serving.dataplane.batching import Arrays
from serving.dataplane.explanation import reason
from serving.dataplane.request import Served
from serving.dataplane.scheduler import Scheduler
from serving.dataplane.validation import ModelTensors, signature
from serving.errors import (
    ModelNotFound,
    NotReady,
    ServingError,
    SloUnattainable,
)
from serving.experiment.assignment import ROUTER, Arm, Experiment
from serving.routing.latency import LatencyModel
from serving.routing.policy.state import LaneKey
from serving.routing.profile import VariantProfile, qualifying
from serving.routing.slo import Objective, Slo
from serving.telemetry.event import Answered
from serving.telemetry.metrics import Metrics
from serving.telemetry.statistics import Statistics
from variants.catalog.catalog import Model

START_GRACE_S: Final = 60.0
"""After so long a service that starts goes on without the variants that do not come up."""

NO_ARM: Final = ""
"""The label of requests that are in no experiment."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets: its outputs, and why they are what they are."""

    variant: str
    outputs: Arrays
    explanation: Mapping[str, str | float | bool]


@dataclass(frozen=True, slots=True)
class _Enrolled:
    """An arm of an experiment, and the variants it leaves to choose from."""

    arm: Arm
    variants: tuple[str, ...]


class DataPlane:
    """Answers requests for one model out of the variants that are offered."""

    def __init__(
        self,
        model: Model,
        profiles: Mapping[str, VariantProfile],
        scheduler: Scheduler,
        latency: LatencyModel,
        metrics: Metrics,
        statistics: Statistics,
        now: Callable[[], float],
        *,
        max_batch: int,
        experiment: Experiment | None = None,
    ) -> None:
        self.model = model
        self.profiles = profiles
        self.is_draining = False
        self._scheduler = scheduler
        self._latency = latency
        self._metrics = metrics
        self.statistics = statistics
        self._now = now
        self.max_batch = max_batch
        self._experiment = experiment
        self._tensors = ModelTensors(model, max_batch)
        self._started = now()
        self._seen: set[str] = set()
        self._qualifying = lru_cache(maxsize=1024)(partial(_qualifying, profiles))
        targets = [arm.target for arm in experiment.arms] if experiment else []
        unknown = {target for target in targets if target != ROUTER} - set(profiles)
        if unknown:
            raise ValueError(
                f"the experiment's arms name {', '.join(sorted(unknown))}; "
                f"served here are {', '.join(profiles)}"
            )

    @property
    def is_ready(self) -> bool:
        """True once every variant has been up, or some have and the rest keep away."""
        if self.is_draining:
            return False
        if len(self._seen) < len(self.profiles):
            self._seen.update(name for name in self.profiles if self._scheduler.slots(name))
        if len(self._seen) == len(self.profiles):
            return True
        return bool(self._seen) and self._now() - self._started > START_GRACE_S

    def is_variant_ready(self, variant: str) -> bool:
        """True if the variant has a live replica."""
        return not self.is_draining and self._scheduler.slots(variant) > 0

    def slots(self, variant: str) -> int:
        """Return how many batches a variant's live replicas take at a time."""
        return self._scheduler.slots(variant)

    def rejected(self, error: Exception) -> None:
        """Count a request that failed before it could come to `infer`."""
        self._metrics.failed(error, NO_ARM)

    def check_name(self, model: str, variant: str | None) -> None:
        """Raise `ModelNotFound` unless this model, and this variant if one is named, is here."""
        if model != self.model.name:
            raise ModelNotFound(f"there is no model {model!r:.100}; there is {self.model.name!r}")
        if variant is not None and variant not in self.profiles:
            known = ", ".join(self.profiles)
            raise ModelNotFound(f"there is no variant {variant!r:.100}; there are {known}")

    async def infer(
        self, inputs: Arrays, outputs: Collection[str], slo: Slo, unit: str | None, received: float
    ) -> Answer:
        """Answer one request.

        `inputs` are arrays whose dimension 0 is the batch, `outputs` the names of those asked for
        (none means all), `unit` whatever an experiment assigns arms by, `received` the time at
        which the request came. Raises a leaf of `ServingError`.
        """
        arm = NO_ARM
        variants: tuple[str, ...] = ()
        try:
            if not self.is_ready:
                raise NotReady("the service is starting or stopping; try again in some seconds")
            size = self._tensors.check(inputs, outputs)
            variants = self._qualify(slo)
            enrolled = self._enroll(slo, variants, size, unit)
            if enrolled:
                arm, variants = enrolled.arm.name, enrolled.variants
            self._check_deadline(slo, variants, size)
            key = LaneKey(
                variants,
                fastest_first=slo.objective == "latency",
                has_deadline=slo.latency_s < math.inf,
                signature=signature(inputs),
            )
            served = await self._scheduler.submit(
                inputs,
                key,
                size=size,
                deadline=received + slo.latency_s,
                priority=slo.priority,
            )
        except asyncio.CancelledError:
            self._metrics.left(arm)
            raise
        except ServingError as error:
            self._metrics.failed(error, arm)
            if variants:
                self.statistics.failed(variants[0], self._now() - received)
            raise
        return self._explain(served, slo, enrolled, variants, received)

    def _qualify(self, slo: Slo) -> tuple[str, ...]:
        if slo.variant is not None:
            self.check_name(self.model.name, slo.variant)
        variants = self._qualifying(
            slo.min_accuracy, slo.max_accuracy_drop, slo.objective, slo.variant
        )
        if not variants:
            best = max(self.profiles.values(), key=lambda profile: profile.accuracy)
            closest = min(self.profiles.values(), key=lambda profile: profile.accuracy_drop)
            raise SloUnattainable(
                f"no variant has an accuracy of at least {slo.min_accuracy:g} and a drop of at "
                f"most {slo.max_accuracy_drop:g}: the best accuracy is {best.accuracy:.4f} "
                f"({best.variant}), the least drop {closest.accuracy_drop:.4f} ({closest.variant})"
            )
        return variants

    def _enroll(
        self, slo: Slo, variants: tuple[str, ...], size: int, unit: str | None
    ) -> _Enrolled | None:
        """Assign an arm, unless the request pins a variant or rules one of the arms out."""
        experiment = self._experiment
        if experiment is None or slo.variant is not None:
            return None
        able = [
            name
            for name in variants
            if self._scheduler.slots(name) and self._latency.idle_s(name, size) <= slo.latency_s
        ]
        if not experiment.is_fair_to(able):
            return None
        arm = experiment.assign(unit)
        return _Enrolled(arm, variants if arm.target == ROUTER else (arm.target,))

    def _check_deadline(self, slo: Slo, variants: tuple[str, ...], size: int) -> None:
        if any(self._latency.idle_s(name, size) <= slo.latency_s for name in variants):
            return
        idle_s = {name: self._latency.idle_s(name, size) for name in variants}
        fastest = min(idle_s, key=idle_s.__getitem__)
        best = max(self.profiles[name].accuracy for name in variants)
        raise SloUnattainable(
            f"no qualifying variant answers within {slo.latency_s * 1e3:g} ms even when idle: "
            f"the fastest is {fastest} with about {idle_s[fastest] * 1e3:.2f} ms; "
            f"the best accuracy among them is {best:.4f}"
        )

    def _explain(
        self,
        served: Served,
        slo: Slo,
        enrolled: _Enrolled | None,
        variants: tuple[str, ...],
        received: float,
    ) -> Answer:
        profile = self.profiles[served.variant]
        took_s = self._now() - received
        is_on_time = took_s <= slo.latency_s
        explanation: dict[str, str | float | bool] = {
            "variant": served.variant,
            "reason": reason(
                served.reason, served.variant, slo, variants, enrolled.arm if enrolled else None
            ),
            "accuracy": profile.accuracy,
            "predicted_latency_ms": round(served.predicted_s * 1e3, 3),
            "latency_ms": round(took_s * 1e3, 3),
            "queue_ms": round(served.queue_s * 1e3, 3),
            "compute_ms": round(served.compute_s * 1e3, 3),
            "batch_size": served.batch_size,
            "deadline_met": is_on_time,
        }
        arm = NO_ARM
        if enrolled and self._experiment:
            arm = enrolled.arm.name
            explanation["experiment"] = self._experiment.name
            explanation["arm"] = arm
        event = Answered(
            variant=served.variant,
            arm=arm,
            took_s=took_s,
            queue_s=served.queue_s,
            input_s=served.input_s,
            compute_s=served.compute_s,
            output_s=served.output_s,
            predicted_s=served.predicted_s,
            accuracy=profile.accuracy,
            agreement=profile.agreement,
            has_deadline=slo.latency_s < math.inf,
            is_on_time=is_on_time,
        )
        self._metrics.answered(event)
        self.statistics.answered(event)
        return Answer(served.variant, served.answer, explanation)


def _qualifying(
    profiles: Mapping[str, VariantProfile],
    min_accuracy: float,
    max_accuracy_drop: float,
    objective: Objective,
    variant: str | None,
) -> tuple[str, ...]:
    """Return what `qualifying` does, by what it depends on: hardly two deadlines are the same."""
    slo = Slo(
        min_accuracy=min_accuracy,
        max_accuracy_drop=max_accuracy_drop,
        objective=objective,
        variant=variant,
    )
    return qualifying(profiles, slo)
