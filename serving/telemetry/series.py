"""Counters, histograms and summaries for events that happen with every request.

An event costs a few additions to plain attributes. prometheus_client's own classes take a lock for
each of them and search the bucket linearly. Here a `Family` is a collector of prometheus_client: it
builds the samples at a scrape, the same that prometheus_client's classes have.

There are no locks: events and scrapes belong to one thread, that of the gateway's event loop.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Final, Generic, Protocol, TypeAlias, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

Part: TypeAlias = tuple[str, Mapping[str, str], float]
"""One value of a series: suffix of the name, labels beside those of the series, value."""


class Series(Protocol):
    """What a family exports for one combination of label values."""

    kind: ClassVar[str]
    """The type of the metric in the exposition."""

    def parts(self) -> Iterator[Part]:
        """Yield the values, without the creation time."""
        ...


class Counter:
    """A number that only grows; events add to `value`."""

    __slots__ = ("value",)
    kind: ClassVar[str] = "counter"

    def __init__(self) -> None:
        self.value = 0

    def parts(self) -> Iterator[Part]:
        """Yield the number."""
        yield "_total", {}, self.value


class Summary:
    """The number of observed values and their sum."""

    __slots__ = ("count", "sum")
    kind: ClassVar[str] = "summary"

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.count += 1
        self.sum += value

    def parts(self) -> Iterator[Part]:
        """Yield number and sum."""
        yield "_count", {}, self.count
        yield "_sum", {}, self.sum


class Histogram:
    """The number of observed values by bucket, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")
    kind: ClassVar[str] = "histogram"

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds` are the upper bounds of the buckets, ascending; they belong to the buckets.

        One more bucket has the values above the last bound.
        """
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def parts(self) -> Iterator[Part]:
        """Yield the number of values up to each bound, the number of all, and their sum."""
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            text = floatToGoString(bound)  # type: ignore[no-untyped-call]  # not annotated there
            yield "_bucket", {"le": text}, total
        yield "_count", {}, total
        yield "_sum", {}, self._sum


S = TypeVar("S", bound=Series)


class Family(Collector, Generic[S]):
    """A metric with all its series, by the values of their labels."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        text: str,
        new: Callable[[], S],
        labels: tuple[str, ...] = (),
        constant: Mapping[str, str] | None = None,
    ) -> None:
        """Register the metric; raises ValueError if the registry has one of this name.

        `new` returns a series without events. `constant` are labels with the same value in every
        series.
        """
        self._name: Final = name.removesuffix("_total")
        self._text: Final = text
        self._new: Final = new
        self._labels: Final = labels
        self._constant: Final = constant or {}
        self._kind: Final = new().kind
        self._series: dict[tuple[str, ...], S] = {}
        self._created_s: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def series(self, *values: str) -> S:
        """Return the series with these values of the labels; the first call creates it."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = self._new()
            self._created_s[values] = time.time()
        return series

    def items(self) -> Iterator[tuple[tuple[str, ...], S]]:
        """Yield the values of the labels, and the series."""
        yield from self._series.items()

    def remove_by_labels(self, labels: Mapping[str, str]) -> None:
        """Remove all series in which these labels have these values."""
        wanted = [(self._labels.index(label), value) for label, value in labels.items()]
        for values in tuple(self._series):
            if all(values[position] == value for position, value in wanted):
                del self._series[values], self._created_s[values]

    def describe(self) -> list[Metric]:
        """Return the metric without samples; the registry compares its name with those it has."""
        return [Metric(self._name, self._text, self._kind)]

    def collect(self) -> list[Metric]:
        """Return the metric with its samples."""
        metric = Metric(self._name, self._text, self._kind)
        has_times = _exports_creation_times()
        for values, series in self._series.items():
            labels = {**self._constant, **dict(zip(self._labels, values, strict=True))}
            for suffix, more, value in series.parts():
                metric.samples.append(Sample(self._name + suffix, {**labels, **more}, value))
            if has_times:
                created_s = self._created_s[values]
                metric.samples.append(Sample(f"{self._name}_created", labels, created_s))
        return [metric]


_PROBE: Final = prometheus_client.Counter("probe", "Never exported.", registry=None)


def _exports_creation_times() -> bool:
    """Return whether prometheus_client exports `_created`, which its users can turn off."""
    return any(one.name == "probe_created" for each in _PROBE.collect() for one in each.samples)
