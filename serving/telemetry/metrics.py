"""Every Prometheus metric of a gateway. No other module names a metric.

Callers report events (`answered`, `failed`, ...); this module defines which series each of them
changes. The registry is an argument, so there is no global state. Labels are bounded: they are
names of variants, arms and errors.

A series belongs to the generation of a variant that is served. It ends when another generation
takes its place: counters start at 0 again. What was answered by a generation that is not served any
more counts as a request, but for no variant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, Gauge

from serving.errors import status_of
from serving.routing.profile import VariantProfile
from serving.telemetry.event import Answered, Executed, HostUsage
from serving.telemetry.series import Counter, Family, Histogram, S, Summary

SECONDS = (
    0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03,
    0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
"""Buckets of durations, in seconds.

They are dense where deadlines of small models lie (0.5 to 100 ms), because the precision of a
quantile is the width of its bucket.
"""

DECISION_SECONDS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 1e-2)
"""Buckets of the time that the policy takes for a decision, in seconds."""

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
"""Buckets of batch sizes, in samples."""

RATIOS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
"""Buckets of actual over predicted latency."""

NO_VARIANT: Final = ""
"""The label `variant` of requests that no variant that is served has answered."""


class _AnswerSeries(NamedTuple):
    """The series that answers of one variant in one arm with one outcome change."""

    requests: Counter
    accuracy: Summary
    agreement: Summary
    latency: Histogram
    queue: Histogram
    prediction: Histogram
    slo: Counter
    """Attained or missed deadlines."""


class Metrics:
    """The metrics of one gateway replica. All methods, and scrapes, belong to one thread."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        self._registry = registry
        self._model = model
        self._names: dict[str, str] = {}
        """The name of each variant that is served, by its routing key."""
        self._answer_series: dict[tuple[str, str, bool, bool], _AnswerSeries] = {}
        """By routing key, arm, has_deadline and is_on_time, since the last call of `serve`."""
        self._batch_series: dict[str, tuple[Histogram, Histogram, Counter]] = {}
        """Sizes, compute times and samples by routing key, since the last call of `serve`."""
        self._samples_at_tick: dict[str, int] = {}
        """The samples of each variant, by name, at the last tick."""
        self._by_variant: list[Family[Any] | Gauge] = []
        """The metrics with a label `variant`."""
        by_arm = ("variant", "arm")

        def family(name: str, text: str, new: Callable[[], S], *labels: str) -> Family[S]:
            name = f"paretoserve_{name}"
            metric = Family(registry, name, text, new, labels, {"model": model})
            if "variant" in labels:
                self._by_variant.append(metric)
            return metric

        def gauge(name: str, text: str, *more: str) -> Gauge:
            labels = ("model", "variant", *more)
            metric = Gauge(f"paretoserve_{name}", text, labels, registry=registry)
            self._by_variant.append(metric)
            return metric

        seconds = partial(Histogram, SECONDS)
        self._requests = family(
            "requests_total", "Requests by outcome.", Counter, *by_arm, "outcome"
        )
        self._errors = family(
            "errors_total", "Requests answered with an error, by class.", Counter, "error"
        )
        self._cancelled = family(
            "cancelled_total", "Requests whose callers disconnected.", Counter, "stage"
        )
        self._saved = family(
            "saved_samples_total",
            "Samples not computed: the caller disconnected, or no variant could answer in time.",
            Counter,
        )
        self._latency = family(
            "request_duration_seconds",
            "Time from receipt of a request to its answer.",
            seconds,
            *by_arm,
        )
        self._queue = family(
            "queue_duration_seconds", "Time from receipt to dispatch.", seconds, "variant"
        )
        self._compute = family(
            "compute_duration_seconds", "Time that a host computed a batch.", seconds, "variant"
        )
        self._prediction = family(
            "prediction_ratio",
            "Actual over predicted latency.",
            partial(Histogram, RATIOS),
            "variant",
        )
        self._batch = family(
            "batch_size", "Samples in a batch.", partial(Histogram, BATCH_SIZES), "variant"
        )
        self._samples = family(
            "samples_total", "Samples computed; its rate is the throughput.", Counter, "variant"
        )
        self._attained = family(
            "slo_attained_total", "Answers within the requested deadline.", Counter, *by_arm
        )
        self._missed = family(
            "slo_missed_total", "Answers after the requested deadline.", Counter, *by_arm
        )
        self._accuracy = family(
            "chosen_accuracy", "Accuracy of the variants that answered.", Summary, "arm"
        )
        self._agreement = family(
            "chosen_agreement",
            "Share of samples on which the variants that answered agree with dense.",
            Summary,
            "arm",
        )
        self._decision = Family(
            registry,
            "paretoserve_router_decision_seconds",
            "Time of one call of the policy.",
            partial(Histogram, DECISION_SECONDS),
        ).series()
        self._hosts_lost = family(
            "hosts_lost_total", "Host replicas that were lost.", Counter, "variant"
        )
        self._profile_gauges = {
            "accuracy": gauge("accuracy", "Measured accuracy."),
            "weight_bytes": gauge("weight_bytes", "Bytes of the weights."),
            "artifact_bytes": gauge("artifact_bytes", "Bytes of the files on disk."),
        }
        self._info = gauge(
            "variant_info", "Always 1; the label has the generation that is served.", "generation"
        )
        self._replicas = gauge("replicas", "Live host replicas.")
        self._failing = gauge(
            "variant_failing",
            "Always 1: this variant has no live host replica; readiness and log have the cause.",
        )
        self._failing_keys: frozenset[str] = frozenset()
        """Routing keys, as they are exported."""
        self._resident = gauge(
            "resident_bytes",
            "Resident memory of the host processes, summed over replicas; of a variant in the "
            "gateway, by how much its process grew when it was loaded.",
        )
        self._gpu = gauge(
            "gpu_memory_bytes", "GPU memory of the host processes, summed over replicas."
        )
        self._rate = gauge(
            "throughput_samples_per_second",
            "Samples computed per second, over about the last second.",
        )

    def serve(self, profiles: Mapping[str, VariantProfile]) -> None:
        """Count for these variants, by routing key, from now on.

        Removes the series of all others, also of another generation of the same name. Sets the
        gauges that come from the report cards.
        """
        self._answer_series.clear()
        self._batch_series.clear()
        for key in self._names.keys() - profiles.keys():
            self._remove(self._names.pop(key))
        for key, profile in profiles.items():
            name = self._names[key] = profile.variant
            self._info.labels(self._model, name, str(profile.generation)).set(1)
            for field, gauge in self._profile_gauges.items():
                gauge.labels(self._model, name).set(getattr(profile, field))

    def _remove(self, variant: str) -> None:
        self._samples_at_tick.pop(variant, None)
        for metric in self._by_variant:
            metric.remove_by_labels({"variant": variant})

    def answered(self, event: Answered) -> None:
        """Count an answer."""
        key = (event.variant, event.arm, event.has_deadline, event.is_on_time)
        series = self._answer_series.get(key)
        if series is None:
            series = self._answer_series[key] = self._find_answer_series(*key)
        requests, accuracy, agreement, latency, queue, prediction, slo = series
        requests.value += 1
        accuracy.observe(event.accuracy)
        agreement.observe(event.agreement)
        latency.observe(event.took_s)
        queue.observe(event.queue_s)
        prediction.observe(event.took_s / event.predicted_s)
        slo.value += 1

    def _find_answer_series(
        self, key: str, arm: str, has_deadline: bool, is_on_time: bool
    ) -> _AnswerSeries:
        """Return the series; those to which the answer does not belong are exported nowhere."""
        variant = self._names.get(key, NO_VARIANT)
        outcome = "answered" if is_on_time else "late"
        requests = self._requests.series(variant, arm, outcome)
        accuracy, agreement = self._accuracy.series(arm), self._agreement.series(arm)
        if variant == NO_VARIANT:
            nowhere = Histogram(())
            return _AnswerSeries(
                requests, accuracy, agreement, nowhere, nowhere, nowhere, Counter()
            )
        slo = self._attained if is_on_time else self._missed
        return _AnswerSeries(
            requests,
            accuracy,
            agreement,
            self._latency.series(variant, arm),
            self._queue.series(variant),
            self._prediction.series(variant),
            slo.series(variant, arm) if has_deadline else Counter(),
        )

    def executed(self, event: Executed) -> None:
        """Count a batch."""
        series = self._batch_series.get(event.variant)
        if series is None:
            variant = self._names.get(event.variant)
            if variant is None:
                return
            series = self._batch_series[event.variant] = (
                self._batch.series(variant),
                self._compute.series(variant),
                self._samples.series(variant),
            )
        size, compute, samples = series
        size.observe(event.samples)
        compute.observe(event.compute_s)
        samples.value += event.samples

    def failed(self, error: Exception, arm: str) -> None:
        """Count a request that was answered with an error."""
        self._errors.series(type(error).__name__).value += 1
        self._requests.series(NO_VARIANT, arm, status_of(error).outcome).value += 1

    def disconnected(self, arm: str) -> None:
        """Count a request whose caller disconnected before the answer."""
        self._requests.series(NO_VARIANT, arm, "cancelled").value += 1

    def cancelled(self, stage: str, samples: int) -> None:
        """Count a cancelled request; the samples of a "queued" one are not computed."""
        self._cancelled.series(stage).value += 1
        if stage == "queued":
            self._saved.series().value += samples

    def expired(self, samples: int) -> None:
        """Count a queued request that expired; its samples are not computed."""
        self._saved.series().value += samples

    def decided(self, took_s: float) -> None:
        """Count a call of the policy."""
        self._decision.observe(took_s)

    def host_lost(self, variant: str) -> None:
        """Count a host replica that was lost."""
        name = self._names.get(variant)
        if name is not None:
            self._hosts_lost.series(name).value += 1

    def host_usage(self, event: HostUsage) -> None:
        """Set the live replicas of a variant and their memory in bytes."""
        variant = self._names.get(event.variant)
        if variant is None:
            return
        self._replicas.labels(self._model, variant).set(event.replicas)
        self._resident.labels(self._model, variant).set(event.resident_bytes)
        if event.gpu_memory_bytes is not None:
            self._gpu.labels(self._model, variant).set(event.gpu_memory_bytes)

    def set_failing(self, keys: Set[str]) -> None:
        """Set which variants have no live replica, by routing key; all others are well."""
        if keys == self._failing_keys:
            return
        self._failing_keys = frozenset(keys)
        self._failing.clear()
        for key in keys:
            if key in self._names:
                self._failing.labels(self._model, self._names[key]).set(1)

    def tick(self, elapsed_s: float) -> None:
        """Set the throughput since the last tick, `elapsed_s` ago."""
        for (variant,), samples in self._samples.items():
            computed = samples.value - self._samples_at_tick.get(variant, 0)
            self._samples_at_tick[variant] = samples.value
            self._rate.labels(self._model, variant).set(computed / elapsed_s)

    def queue_length(self, count: Callable[[], float]) -> None:
        """Export the length of the queue; `count` is called at each scrape."""
        Gauge("paretoserve_queue_length", "Queued requests.", registry=self._registry).set_function(
            count
        )
