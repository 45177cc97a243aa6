"""The path of a request between protocol and scheduler, independent of HTTP, gRPC and Ray.

    check tensors ─▶ qualifying variants ─▶ attainability ─▶ scheduler ─▶ explanation, telemetry

`protocol/` parses requests and renders answers; the scheduler queues requests and runs batches.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

from serving.dataplane.batching import Arrays
from serving.dataplane.explanation import Reasons
from serving.dataplane.gateway_delay import Admission, GatewayDelay
from serving.dataplane.load_shedder import LoadShedder
from serving.dataplane.request import RequestResult
from serving.dataplane.scheduler import Scheduler
from serving.dataplane.validation import ModelTensors, signature
from serving.errors import (
    DeadlineExceeded,
    ModelNotFound,
    NotReady,
    Overloaded,
    ServingError,
    SloUnattainable,
)
from serving.experiment.assignment import ROUTER, Arm, Experiment
from serving.routing.attainability import attainable_variants, lane_key
from serving.routing.latency import LatencyModel
from serving.routing.profile import VariantProfile, qualifying
from serving.routing.slo import Objective, Slo
from serving.telemetry.event import Answered
from serving.telemetry.telemetry import Telemetry
from variants.catalog.catalog import Model

START_GRACE_S: Final = 60.0
"""Seconds after which a starting service is ready without the variants that are not up yet."""

NO_ARM: Final = ""
"""The label `arm` of requests that are not part of an experiment."""

_REFUSED: Final = Overloaded("refused before it was parsed")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request: the outputs of a variant, and why that variant was chosen."""

    variant: str
    outputs: Arrays
    explanation: Mapping[str, str | float | bool]


@dataclass(frozen=True, slots=True)
class _Enrollment:
    """The arm of a request in an experiment, and the variants that may answer it."""

    arm: Arm
    variants: tuple[str, ...]


class DataPlane:
    """Answers requests for one model with the variants that are served."""

    def __init__(
        self,
        model: Model,
        profiles: Mapping[str, VariantProfile],
        scheduler: Scheduler[Arrays, Arrays],
        latency: LatencyModel,
        telemetry: Telemetry,
        now: Callable[[], float],
        *,
        max_batch: int,
        shedder: LoadShedder,
        experiment: Experiment | None = None,
    ) -> None:
        """`profiles` are by variant; `max_batch` bounds the samples of a request.

        `shedder` is the one of the listeners; it learns what requests allow and what delays them.

        Raises `ValueError` if an arm of the experiment names a variant without a profile.
        """
        self.model = model
        self.profiles = profiles
        self.is_draining = False
        self._scheduler = scheduler
        self._latency = latency
        self._telemetry = telemetry
        self.statistics = telemetry.statistics
        self._now = now
        self.max_batch = max_batch
        self._delay = GatewayDelay(shedder)
        self._experiment = experiment
        self._tensors = ModelTensors(model, max_batch)
        self._started = now()
        self._seen_alive: set[str] = set()
        self._reasons = Reasons({name: each.tier_accuracy for name, each in profiles.items()})
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
        """True once every variant has had a live replica, or some have and the grace is over."""
        if self.is_draining:
            return False
        if len(self._seen_alive) < len(self.profiles):
            self._seen_alive.update(name for name in self.profiles if self._scheduler.slots(name))
        if len(self._seen_alive) == len(self.profiles):
            return True
        return bool(self._seen_alive) and self._now() - self._started > START_GRACE_S

    def is_variant_ready(self, variant: str) -> bool:
        """True if the variant has a live replica."""
        return not self.is_draining and self._scheduler.slots(variant) > 0

    def slots(self, variant: str) -> int:
        """Return how many batches the live replicas of a variant accept at a time."""
        return self._scheduler.slots(variant)

    def rejected(self, error: Exception) -> None:
        """Count a request that failed before it reached `infer`."""
        self._telemetry.failed(error, NO_ARM, variant=None, took_s=0.0)

    def count_refused(self) -> None:
        """Count a request that was refused before it was parsed."""
        self.rejected(_REFUSED)

    def record_written(self, took_s: float) -> None:
        """Record how long it took, in seconds, to render and write an answer after `infer`."""
        self._delay.record_written(took_s)

    def check_name(self, model: str, variant: str | None) -> None:
        """Raise `ModelNotFound` unless the model, and the variant if one is named, are served."""
        if model != self.model.name:
            raise ModelNotFound(f"there is no model {model!r:.100}; there is {self.model.name!r}")
        if variant is not None and variant not in self.profiles:
            known = ", ".join(self.profiles)
            raise ModelNotFound(f"there is no variant {variant!r:.100}; there are {known}")

    async def infer(
        self, inputs: Arrays, outputs: Collection[str], slo: Slo, unit: str | None, received: float
    ) -> Answer:
        """Answer one request.

        Dimension 0 of the `inputs` is the batch. `outputs` are the names of the requested outputs;
        empty means all. `unit` is the unit of assignment of an experiment, such as a user.
        `received` is the time at which the request arrived. Raises a leaf of `ServingError`.
        """
        arm = NO_ARM
        variants: tuple[str, ...] = ()
        admission: Admission | None = None
        try:
            if not self.is_ready:
                raise NotReady("the service is starting or stopping; try again in a few seconds")
            size = self._tensors.check(inputs, outputs)
            variants = self._qualify(slo)
            enrollment = self._enroll(slo, variants, size, unit)
            if enrollment:
                arm, variants = enrollment.arm.name, enrollment.variants
            self._check_deadline(slo, variants, size)
            admission = self._delay.admit(received, slo.latency_s, self._now())
            key = lane_key(variants, slo, signature(inputs))
            result = await self._scheduler.submit(
                inputs,
                key,
                size=size,
                deadline=admission.deadline,
                priority=slo.priority,
            )
        except asyncio.CancelledError:
            self._telemetry.disconnected(arm)
            raise
        except ServingError as error:
            if admission is not None and isinstance(error, Overloaded | DeadlineExceeded):
                self._delay.record_failure(admission, self._now(), slo.priority)
            preferred = variants[0] if variants else None
            self._telemetry.failed(error, arm, preferred, self._now() - received)
            raise
        return self._answer(result, slo, enrollment, variants, admission)

    def _qualify(self, slo: Slo) -> tuple[str, ...]:
        """Return the qualifying variants, best first; raise `SloUnattainable` if there are none."""
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
                f"({best.variant}), the smallest drop is {closest.accuracy_drop:.4f} "
                f"({closest.variant})"
            )
        return variants

    def _enroll(
        self, slo: Slo, variants: tuple[str, ...], size: int, unit: str | None
    ) -> _Enrollment | None:
        """Assign an arm, unless the request pins a variant or excludes one of the arms."""
        experiment = self._experiment
        if experiment is None or slo.variant is not None:
            return None
        attainable = attainable_variants(variants, size, slo.latency_s, self._latency.best_case_s)
        available = [name for name in attainable if self._scheduler.slots(name)]
        if not experiment.is_fair_to(available):
            return None
        arm = experiment.assign(unit)
        return _Enrollment(arm, variants if arm.target == ROUTER else (arm.target,))

    def _check_deadline(self, slo: Slo, variants: tuple[str, ...], size: int) -> None:
        """Raise `SloUnattainable` if no variant could meet the deadline even when idle."""
        best_case_s = self._latency.best_case_s
        if next(attainable_variants(variants, size, slo.latency_s, best_case_s), None) is not None:
            return
        times_s = {name: best_case_s(name, size) for name in variants}
        fastest = min(times_s, key=times_s.__getitem__)
        best = max(self.profiles[name].accuracy for name in variants)
        raise SloUnattainable(
            f"no qualifying variant answers within {slo.latency_s * 1e3:g} ms even when idle: "
            f"the fastest is {fastest} with about {times_s[fastest] * 1e3:.2f} ms; "
            f"the best accuracy among them is {best:.4f}"
        )

    def _answer(
        self,
        result: RequestResult[Arrays],
        slo: Slo,
        enrollment: _Enrollment | None,
        variants: tuple[str, ...],
        admission: Admission,
    ) -> Answer:
        """Count the result, and return it with its explanation."""
        profile = self.profiles[result.variant]
        took_s = self._delay.record_answer(
            admission,
            self._now(),
            queue_s=result.queue_s,
            compute_s=result.compute_s,
            returned_at=result.returned_at,
        )
        is_on_time = took_s <= slo.latency_s
        predicted_s = result.predicted_s + admission.outside_s
        explanation: dict[str, str | float | bool] = {
            "variant": result.variant,
            "reason": self._reasons.reason(
                result.reason, result.variant, slo, variants, enrollment.arm if enrollment else None
            ),
            "accuracy": profile.accuracy,
            "predicted_latency_ms": round(predicted_s * 1e3, 3),
            "latency_ms": round(took_s * 1e3, 3),
            "queue_ms": round(result.queue_s * 1e3, 3),
            "compute_ms": round(result.compute_s * 1e3, 3),
            "batch_size": result.batch_size,
            "deadline_met": is_on_time,
        }
        arm = NO_ARM
        if enrollment and self._experiment:
            arm = enrollment.arm.name
            explanation["experiment"] = self._experiment.name
            explanation["arm"] = arm
        event = Answered(
            variant=result.variant,
            arm=arm,
            took_s=took_s,
            queue_s=result.queue_s,
            input_s=result.input_s,
            compute_s=result.compute_s,
            output_s=result.output_s,
            predicted_s=predicted_s,
            accuracy=profile.accuracy,
            agreement=profile.agreement,
            has_deadline=slo.latency_s < math.inf,
            is_on_time=is_on_time,
        )
        self._telemetry.answered(event)
        return Answer(result.variant, result.outputs, explanation)


def _qualifying(
    profiles: Mapping[str, VariantProfile],
    min_accuracy: float,
    max_accuracy_drop: float,
    objective: Objective,
    variant: str | None,
) -> tuple[str, ...]:
    """Call `qualifying` with all of an SLO but its deadline, so that the result can be cached."""
    slo = Slo(
        min_accuracy=min_accuracy,
        max_accuracy_drop=max_accuracy_drop,
        objective=objective,
        variant=variant,
    )
    return qualifying(profiles, slo)
