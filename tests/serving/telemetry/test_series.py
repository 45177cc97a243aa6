from __future__ import annotations

import re
from functools import partial

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from serving.telemetry.series import Counter, Family, Histogram, Summary

BOUNDS = (0.001, 0.5, 1, 10)
LABELS = ("variant", "arm")
Values = tuple[str, str]

values = st.tuples(st.sampled_from(["dense", "int8", 'a "quoted" \\ name']), st.sampled_from("ab"))
amounts = st.one_of(st.sampled_from(BOUNDS), st.floats(0, 1e9))


def exposition(registry: CollectorRegistry) -> str:
    """Return what a scrape returns, without the times at which series were created."""
    text = generate_latest(registry).decode()
    return re.sub(r"^(m_created(?:{.*})?) .+$", r"\1", text, flags=re.MULTILINE)


@given(st.lists(st.tuples(values, amounts)), values)
def test_a_histogram_is_exported_as_that_of_prometheus_client(
    observed: list[tuple[Values, float]], removed: Values
) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    family = Family(ours, "m", "A text.", partial(Histogram, BOUNDS), LABELS)
    metric = prometheus_client.Histogram("m", "A text.", LABELS, registry=theirs, buckets=BOUNDS)
    for labels, amount in observed:
        family.series(*labels).observe(amount)
        metric.labels(*labels).observe(amount)
    assert exposition(ours) == exposition(theirs)
    by_name = dict(zip(LABELS, removed, strict=True))
    family.remove_by_labels(by_name)
    metric.remove_by_labels(by_name)
    assert exposition(ours) == exposition(theirs)


@given(st.lists(st.tuples(values, amounts)))
def test_a_summary_is_exported_as_that_of_prometheus_client(
    observed: list[tuple[Values, float]],
) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    family = Family(ours, "m", "A text.", Summary, LABELS)
    metric = prometheus_client.Summary("m", "A text.", LABELS, registry=theirs)
    for labels, amount in observed:
        family.series(*labels).observe(amount)
        metric.labels(*labels).observe(amount)
    assert exposition(ours) == exposition(theirs)


@pytest.mark.parametrize("name", ["m", "m_total"])
@given(counted=st.lists(st.tuples(values, st.integers(0, 10**6))))
def test_a_counter_is_exported_as_that_of_prometheus_client(
    name: str, counted: list[tuple[Values, int]]
) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    family = Family(ours, name, "A text.", Counter, LABELS)
    metric = prometheus_client.Counter(name, "A text.", LABELS, registry=theirs)
    for labels, amount in counted:
        family.series(*labels).value += amount
        metric.labels(*labels).inc(amount)
    assert exposition(ours) == exposition(theirs)


def test_constant_labels_are_those_of_every_series() -> None:
    registry = CollectorRegistry()
    family = Family(registry, "m", "A text.", Counter, ("variant",), {"model": "shirts"})
    family.series("dense").value += 1
    family.series("int8").value += 2
    for variant, expected in ("dense", 1), ("int8", 2):
        labels = {"model": "shirts", "variant": variant}
        assert registry.get_sample_value("m_total", labels) == expected


def test_removing_by_one_label_keeps_the_series_with_another_value_of_it() -> None:
    family = Family(CollectorRegistry(), "m", "A text.", Counter, LABELS)
    for labels in ("dense", "a"), ("int8", "a"), ("int8", "b"), ("dense", "int8"):
        family.series(*labels)
    family.remove_by_labels({"variant": "int8"})
    assert [labels for labels, _ in family.items()] == [("dense", "a"), ("dense", "int8")]


def test_a_series_begins_at_0_again_after_its_removal() -> None:
    family = Family(CollectorRegistry(), "m", "A text.", Counter, ("variant",))
    family.series("dense").value += 1
    family.remove_by_labels({"variant": "dense"})
    assert family.series("dense").value == 0


def test_the_names_of_a_registry_are_unique() -> None:
    registry = CollectorRegistry()
    Family(registry, "m_total", "A text.", Counter)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        prometheus_client.Gauge("m_total", "Another text.", registry=registry)
