"""The path of a request between protocol and scheduler, independent of HTTP, gRPC and Ray.

    check tensors ─▶ qualifying variants ─▶ attainability ─▶ scheduler ─▶ explanation, telemetry

`protocol/` parses requests and renders answers; the scheduler queues requests and runs batches.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from serving.dataplane.batching import Arrays
from serving.dataplane.call import Answer, Call
from serving.dataplane.delivery import Delivery
from serving.dataplane.gateway_delay import GatewayDelay
from serving.dataplane.load_shedder import LoadShedder
from serving.dataplane.readiness import Readiness
from serving.dataplane.request import OnEnd, RequestResult
from serving.dataplane.scheduler import Scheduler
from serving.dataplane.served import ServedVariants
from serving.dataplane.validation import ModelTensors
from serving.errors import (
    DeadlineExceeded,
    ModelNotFound,
    NotReady,
    Overloaded,
    ServingError,
    SloUnattainable,
)
from serving.experiment.assignment import ROUTER, Arm, Experiment
from serving.routing.attainability import attainable_variants, is_attainable, lane_key
from serving.routing.generation import variant_name
from serving.routing.latency import LatencyModel
from serving.routing.profile import VariantProfile
from serving.routing.slo import Slo
from serving.telemetry.event import Answered
from serving.telemetry.statistics import VariantStatistics
from serving.telemetry.telemetry import Telemetry
from variants.catalog.catalog import Model

logger = logging.getLogger(__name__)

NO_ARM: Final = ""
"""The label `arm` of requests that are not part of an experiment."""

_REFUSED: Final = Overloaded("refused before it was parsed")


@dataclass(frozen=True, slots=True)
class _Enrollment:
    """The arm of a request in an experiment, and the keys of the variants that may answer it."""

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
        """`profiles` are by name of a variant; `max_batch` bounds the samples of a request.

        `shedder` is the one of the listeners; it learns what requests allow and what delays them.

        Raises `ValueError` if an arm of the experiment names a variant without a profile.
        """
        self.model = model
        self._scheduler = scheduler
        self._latency = latency
        self._telemetry = telemetry
        self._now = now
        self.max_batch = max_batch
        self._delay = GatewayDelay(shedder)
        self._experiment = experiment
        self._tensors = ModelTensors(model, max_batch)
        self.max_values = self._tensors.max_values
        self._served = ServedVariants(profiles)
        self.readiness = Readiness(self._served, scheduler.slots, now)
        unknown = self._missing_targets()
        if profiles and unknown:
            raise ValueError(
                f"the experiment's arms name {', '.join(unknown)}; "
                f"served here are {', '.join(profiles)}"
            )

    @property
    def profiles(self) -> Mapping[str, VariantProfile]:
        """The profiles of the variants that are served, by name."""
        return self._served.profiles

    def serve(self, profiles: Mapping[str, VariantProfile]) -> None:
        """Serve these variants from now on, by name. The scheduler must route to them already.

        A request that was admitted before is answered as if nothing had changed.
        """
        self._served = self.readiness.served = ServedVariants(profiles)
        missing = self._missing_targets()
        if missing:
            logger.warning(
                "the experiment is paused: variants of its arms are not served",
                extra={"variants": ", ".join(missing)},
            )

    def _missing_targets(self) -> list[str]:
        """Return the variants that arms of the experiment name and that are not served."""
        targets = {arm.target for arm in self._experiment.arms} if self._experiment else set()
        return sorted(targets - {ROUTER} - self._served.profiles.keys())

    def slots(self, variant: str) -> int:
        """Return how many batches the live replicas of a variant accept at a time.

        Raises `KeyError` for an unknown name.
        """
        return self._scheduler.slots(self._served.keys[variant])

    def statistics(self, variant: str) -> VariantStatistics:
        """Return the statistics of the generation of a variant that is served.

        Raises `KeyError` for an unknown name.
        """
        return self._telemetry.statistics.by_variant[self._served.keys[variant]]

    def rejected(self, error: Exception) -> None:
        """Count a request that failed before it reached `submit`."""
        self._telemetry.failed(error, NO_ARM, variant=None, took_s=0.0)

    def count_refused(self) -> None:
        """Count a request that was refused before it was parsed."""
        self.rejected(_REFUSED)

    def check_name(self, model: str, variant: str | None) -> None:
        """Raise `ModelNotFound` unless the model, and the variant if one is named, are served."""
        if model != self.model.name:
            raise ModelNotFound(f"there is no model {model!r:.100}; there is {self.model.name!r}")
        if variant is not None:
            self._served.check_name(variant)

    def submit(
        self,
        inputs: Arrays,
        outputs: Collection[str],
        slo: Slo,
        unit: str | None,
        received: float,
        on_end: OnEnd[Answer],
        delivery: Delivery,
        waited_s: float = 0.0,
    ) -> Call:
        """Answer one request: `on_end` is called once with its answer or its error.

        Dimension 0 of the `inputs` is the batch. `outputs` are the names of the requested outputs;
        empty means all. `unit` is the unit of assignment of an experiment, such as a user.
        `received` is the time at which the request arrived, and `waited_s` how many seconds of the
        time since then it waited to be let in; `delivery` is that of its transport. Raises a leaf
        of `ServingError` if the request cannot be queued; `on_end` may be called before this
        returns. Returns the call, for `cancel`.
        """
        call = Call(slo, self._served, received, on_end)
        try:
            if (reason := self.readiness.why_closed()) is not None:
                raise NotReady(f"{reason}; try again in a few seconds")
            size, signature = self._tensors.check(inputs, outputs)
            call.variants = call.served.qualifying(slo)
            enrollment = self._enroll(slo, call.variants, size, unit)
            if enrollment:
                call.arm, call.variants = enrollment.arm, enrollment.variants
            self._check_deadline(slo, call.variants, size)
            call.admission = self._delay.admit(
                received, slo.latency_s, self._now(), delivery, waited_s
            )
            call.request = self._scheduler.submit(
                inputs,
                lane_key(call.variants, slo, signature),
                size=size,
                deadline=call.admission.deadline,
                priority=slo.priority,
                on_end=partial(self._end, call),
            )
        except ServingError as error:
            self._count_failure(call, error)
            raise
        return call

    def cancel(self, call: Call) -> None:
        """Forget a request whose client has gone; nothing happens if it has ended."""
        assert call.request is not None
        if self._scheduler.cancel(call.request):
            self._telemetry.disconnected(_label(call.arm))

    def _end(self, call: Call, result: RequestResult[Arrays] | Exception) -> None:
        answer: Answer | Exception
        if isinstance(result, Exception):
            answer = result
            self._count_failure(call, result)
        else:
            try:
                answer = self._answer(call, result)
            except Exception as error:  # nothing else would answer the request
                self._count_failure(call, error)
                answer = error
        call.on_end(answer)

    def _count_failure(self, call: Call, error: Exception) -> None:
        if call.admission is not None and isinstance(error, Overloaded | DeadlineExceeded):
            self._delay.record_failure(call.admission, self._now(), call.slo.priority)
        preferred = call.variants[0] if call.variants else None
        took_s = self._now() - call.received
        self._telemetry.failed(error, _label(call.arm), preferred, took_s)

    def _enroll(
        self, slo: Slo, variants: tuple[str, ...], size: int, unit: str | None
    ) -> _Enrollment | None:
        """Assign an arm, unless the request pins a variant or excludes one of the arms."""
        experiment = self._experiment
        if experiment is None or slo.variant is not None:
            return None
        attainable = attainable_variants(variants, size, slo.latency_s, self._latency.best_case_s)
        available = [variant_name(key) for key in attainable if self._scheduler.slots(key)]
        if not experiment.is_fair_to(available):
            return None
        arm = experiment.assign(unit)
        if arm.target == ROUTER:
            return _Enrollment(arm, variants)
        return _Enrollment(arm, (self._served.keys[arm.target],))

    def _check_deadline(self, slo: Slo, variants: tuple[str, ...], size: int) -> None:
        """Raise an error if no variant could meet the deadline even when idle.

        It is `SloUnattainable`, or `DeadlineExceeded` if the call itself ends so early.
        """
        best_case_s = self._latency.best_case_s
        if is_attainable(variants, size, slo.latency_s, best_case_s):
            return
        times_s = {key: best_case_s(key, size) for key in variants}
        fastest = min(times_s, key=times_s.__getitem__)
        best = max(self._served.by_key[key].accuracy for key in variants)
        if slo.is_call_timeout:
            raise DeadlineExceeded(
                f"the call times out {max(0.0, slo.latency_s) * 1e3:.2f} ms after its arrival, and "
                f"the fastest qualifying variant, {variant_name(fastest)}, takes about "
                f"{times_s[fastest] * 1e3:.2f} ms when idle; allow more time"
            )
        raise SloUnattainable(
            f"no qualifying variant answers within {slo.latency_s * 1e3:g} ms even when idle: "
            f"the fastest is {variant_name(fastest)} with about {times_s[fastest] * 1e3:.2f} ms; "
            f"the best accuracy among them is {best:.4f}"
        )

    def _answer(self, call: Call, result: RequestResult[Arrays]) -> Answer:
        """Count the result, and return it with its explanation."""
        admission, slo, arm = call.admission, call.slo, call.arm
        assert admission is not None
        profile = call.served.by_key[result.variant]
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
            "variant": profile.variant,
            "generation": profile.generation,
            "reason": call.served.reasons.reason(
                result.reason, result.variant, slo, call.variants, arm
            ),
            "accuracy": profile.accuracy,
            "predicted_latency_ms": round(predicted_s * 1e3, 3),
            "latency_ms": round(took_s * 1e3, 3),
            "queue_ms": round(result.queue_s * 1e3, 3),
            "compute_ms": round(result.compute_s * 1e3, 3),
            "batch_size": result.batch_size,
            "deadline_met": is_on_time,
        }
        if arm is not None and self._experiment is not None:
            explanation["experiment"] = self._experiment.name
            explanation["arm"] = arm.name
        event = Answered(
            variant=result.variant,
            arm=_label(arm),
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
        return Answer(profile.variant, result.outputs, explanation)


def _label(arm: Arm | None) -> str:
    """Return the label `arm` of a request."""
    return NO_ARM if arm is None else arm.name
