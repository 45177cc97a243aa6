"""Every Prometheus metric of a gateway. No other module names a metric.

Callers report events (`answered`, `failed`, ...); this module defines which series each of them
changes. The registry is an argument, so there is no global state. Labels are bounded: they are
names of variants, arms and errors.

A series belongs to the generation of a variant that is served. It ends when another generation
takes its place: counters start at 0 again. What was answered by a generation that is not served any
more counts as a request, but for no variant.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.metrics import MetricWrapperBase

from serving.errors import status_of
from serving.routing.profile import VariantProfile
from serving.telemetry.event import Answered, Executed, HostUsage

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

M = TypeVar("M", bound=MetricWrapperBase)


class Metrics:
    """The metrics of one gateway replica."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        self._registry = registry
        self._model = model
        self._names: dict[str, str] = {}
        """The name of each variant that is served, by its routing key."""
        self._samples_since_tick: dict[str, int] = defaultdict(int)
        """Samples by name of a variant."""
        self._by_variant: list[tuple[MetricWrapperBase, Any]] = []
        """The metrics with a label `variant`, each with its cached function."""
        by_arm = ("model", "variant", "arm")

        def cached(metric: M, labels: tuple[str, ...]) -> Callable[..., M]:
            series = cache(lambda *values: metric.labels(model, *values))
            if "variant" in labels:
                self._by_variant.append((metric, series))
            return series

        def histogram(
            name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
        ) -> Callable[..., Histogram]:
            metric = Histogram(
                f"paretoserve_{name}", text, labels, buckets=buckets, registry=registry
            )
            return cached(metric, labels)

        def counter(name: str, text: str, labels: tuple[str, ...]) -> Callable[..., Counter]:
            return cached(Counter(f"paretoserve_{name}", text, labels, registry=registry), labels)

        def gauge(name: str, text: str, labels: tuple[str, ...]) -> Callable[..., Gauge]:
            return cached(Gauge(f"paretoserve_{name}", text, labels, registry=registry), labels)

        def summary(name: str, text: str, labels: tuple[str, ...]) -> Callable[..., Summary]:
            return cached(Summary(f"paretoserve_{name}", text, labels, registry=registry), labels)

        self._requests = counter("requests_total", "Requests by outcome.", (*by_arm, "outcome"))
        self._errors = counter(
            "errors_total", "Requests answered with an error, by class.", ("model", "error")
        )
        self._cancelled = counter(
            "cancelled_total", "Requests whose callers disconnected.", ("model", "stage")
        )
        self._saved = counter(
            "saved_samples_total",
            "Samples not computed: the caller disconnected, or no variant could answer in time.",
            ("model",),
        )
        self._latency = histogram(
            "request_duration_seconds",
            "Time from receipt of a request to its answer.",
            by_arm,
            SECONDS,
        )
        self._queue = histogram(
            "queue_duration_seconds",
            "Time from receipt to dispatch.",
            ("model", "variant"),
            SECONDS,
        )
        self._compute = histogram(
            "compute_duration_seconds",
            "Time that a host computed a batch.",
            ("model", "variant"),
            SECONDS,
        )
        self._prediction = histogram(
            "prediction_ratio", "Actual over predicted latency.", ("model", "variant"), RATIOS
        )
        self._batch = histogram(
            "batch_size", "Samples in a batch.", ("model", "variant"), BATCH_SIZES
        )
        self._samples = counter(
            "samples_total", "Samples computed; its rate is the throughput.", ("model", "variant")
        )
        self._attained = counter(
            "slo_attained_total", "Answers within the requested deadline.", by_arm
        )
        self._missed = counter("slo_missed_total", "Answers after the requested deadline.", by_arm)
        self._accuracy = summary(
            "chosen_accuracy", "Accuracy of the variants that answered.", ("model", "arm")
        )
        self._agreement = summary(
            "chosen_agreement",
            "Share of samples on which the variants that answered agree with dense.",
            ("model", "arm"),
        )
        self._decision = Histogram(
            "paretoserve_router_decision_seconds",
            "Time of one call of the policy.",
            buckets=DECISION_SECONDS,
            registry=registry,
        )
        self._hosts_lost = counter(
            "hosts_lost_total", "Host replicas that were lost.", ("model", "variant")
        )
        self._profile_gauges = {
            "accuracy": gauge("accuracy", "Measured accuracy.", ("model", "variant")),
            "weight_bytes": gauge("weight_bytes", "Bytes of the weights.", ("model", "variant")),
            "artifact_bytes": gauge(
                "artifact_bytes", "Bytes of the files on disk.", ("model", "variant")
            ),
        }
        self._info = gauge(
            "variant_info",
            "Always 1; the label has the generation that is served.",
            ("model", "variant", "generation"),
        )
        self._replicas = gauge("replicas", "Live host replicas.", ("model", "variant"))
        self._resident = gauge(
            "resident_bytes",
            "Resident memory of the host processes, summed over replicas.",
            ("model", "variant"),
        )
        self._gpu = gauge(
            "gpu_memory_bytes",
            "GPU memory of the host processes, summed over replicas.",
            ("model", "variant"),
        )
        self._rate = gauge(
            "throughput_samples_per_second",
            "Samples computed per second, over about the last second.",
            ("model", "variant"),
        )

    def serve(self, profiles: Mapping[str, VariantProfile]) -> None:
        """Count for these variants, by routing key, from now on.

        Removes the series of all others, also of another generation of the same name. Sets the
        gauges that come from the report cards.
        """
        for key in self._names.keys() - profiles.keys():
            self._remove(self._names.pop(key))
        for key, profile in profiles.items():
            name = self._names[key] = profile.variant
            self._info(name, str(profile.generation)).set(1)
            for field, gauge in self._profile_gauges.items():
                gauge(name).set(getattr(profile, field))

    def _remove(self, variant: str) -> None:
        self._samples_since_tick.pop(variant, None)
        for metric, series in self._by_variant:
            metric.remove_by_labels({"model": self._model, "variant": variant})
            series.cache_clear()

    def answered(self, event: Answered) -> None:
        """Count an answer."""
        variant, arm = self._names.get(event.variant), event.arm
        outcome = "answered" if event.is_on_time else "late"
        self._accuracy(arm).observe(event.accuracy)
        self._agreement(arm).observe(event.agreement)
        if variant is None:
            self._requests(NO_VARIANT, arm, outcome).inc()
            return
        self._requests(variant, arm, outcome).inc()
        self._latency(variant, arm).observe(event.took_s)
        self._queue(variant).observe(event.queue_s)
        self._prediction(variant).observe(event.took_s / event.predicted_s)
        if event.has_deadline:
            (self._attained if event.is_on_time else self._missed)(variant, arm).inc()

    def executed(self, event: Executed) -> None:
        """Count a batch."""
        variant = self._names.get(event.variant)
        if variant is None:
            return
        self._batch(variant).observe(event.samples)
        self._compute(variant).observe(event.compute_s)
        self._samples(variant).inc(event.samples)
        self._samples_since_tick[variant] += event.samples

    def failed(self, error: Exception, arm: str) -> None:
        """Count a request that was answered with an error."""
        self._errors(type(error).__name__).inc()
        self._requests(NO_VARIANT, arm, status_of(error).outcome).inc()

    def disconnected(self, arm: str) -> None:
        """Count a request whose caller disconnected before the answer."""
        self._requests(NO_VARIANT, arm, "cancelled").inc()

    def cancelled(self, stage: str, samples: int) -> None:
        """Count a cancelled request; the samples of a "queued" one are not computed."""
        self._cancelled(stage).inc()
        if stage == "queued":
            self._saved().inc(samples)

    def expired(self, samples: int) -> None:
        """Count a queued request that expired; its samples are not computed."""
        self._saved().inc(samples)

    def decided(self, took_s: float) -> None:
        """Count a call of the policy."""
        self._decision.observe(took_s)

    def host_lost(self, variant: str) -> None:
        """Count a host replica that was lost."""
        name = self._names.get(variant)
        if name is not None:
            self._hosts_lost(name).inc()

    def host_usage(self, event: HostUsage) -> None:
        """Set the live replicas of a variant and their memory in bytes."""
        variant = self._names.get(event.variant)
        if variant is None:
            return
        self._replicas(variant).set(event.replicas)
        self._resident(variant).set(event.resident_bytes)
        if event.gpu_memory_bytes is not None:
            self._gpu(variant).set(event.gpu_memory_bytes)

    def tick(self, elapsed_s: float) -> None:
        """Set the throughput since the last tick, `elapsed_s` ago."""
        for variant, samples in self._samples_since_tick.items():
            self._rate(variant).set(samples / elapsed_s)
            self._samples_since_tick[variant] = 0

    def queue_length(self, count: Callable[[], float]) -> None:
        """Export the length of the queue; `count` is called at each scrape."""
        Gauge("paretoserve_queue_length", "Queued requests.", registry=self._registry).set_function(
            count
        )
