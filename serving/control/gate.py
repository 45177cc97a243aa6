"""The gate: whether a report card lets a variant get requests.

    card, cards of the other variants, rules ─▶ judge ─▶ GateReport: pass, fail or inconclusive

A pure function. A drop in accuracy passes only if its whole 95 % interval is within the limit, and
fails only if none of it is. In between it is inconclusive, and the text says how many test samples
would decide it. Speeds are compared through dense, with which each variant is timed in turns, since
a card may be measured while the machine is busy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from serving.control.settings import Gate
from serving.control.state import GateCheck, GateReport, GateVerdict
from variants.catalog.catalog import BatchLatency, Interval, ReportCard

_ORDER: Final[Sequence[GateVerdict]] = ("pass", "inconclusive", "fail")
"""From best to worst."""
_MOST_SAMPLES: Final = 10_000_000
"""Beyond this number of test samples the text does not state one."""


def judge(
    card: ReportCard, others: Mapping[str, ReportCard], rules: Gate, *, replicas: int = 1
) -> GateReport:
    """Judge the report card of a variant.

    `others` are the cards, on the same hardware, of the variants that will be served beside it, by
    name: without the generation that it replaces. Each variant has `replicas` hosts.
    """
    checks = [_accuracy(card, rules.max_accuracy_drop)]
    if rules.max_class_drop is not None:
        checks.append(_classes(card, rules.max_class_drop))
    if rules.memory_bytes is not None:
        checks.append(_memory(card, others, rules.memory_bytes, replicas))
    if not rules.allow_dominated:
        checks.append(_dominated(card, others))
    return GateReport(verdict=_worst(check.verdict for check in checks), checks=tuple(checks))


def describe(rules: Gate) -> tuple[str, ...]:
    """Return what the gate checks, one sentence for each rule."""
    lines = [
        f"the accuracy is at most {_points(rules.max_accuracy_drop)} below that of dense, by the "
        "upper end of the 95 % interval"
    ]
    if rules.max_class_drop is not None:
        lines.append(
            f"the accuracy in each class is at most {_points(rules.max_class_drop)} below that of "
            "dense, by the upper ends of the joint 95 % intervals"
        )
    if rules.memory_bytes is not None:
        lines.append(f"all hosts together use at most {_mib(rules.memory_bytes)}")
    if not rules.allow_dominated:
        lines.append("no other variant is more accurate, faster and smaller")
    return tuple(lines)


def _accuracy(card: ReportCard, limit: float) -> GateCheck:
    drop = _drop(card.accuracy_difference)
    verdict = _verdict(drop, limit)
    text = f"accuracy drops by {_points(drop.value)} {_range(drop)}; {_points(limit)} are allowed"
    if verdict == "inconclusive":
        text += f". {_decisive(drop, limit, card.test_samples, 'test samples')}"
    return GateCheck(
        rule="max_accuracy_drop", verdict=verdict, limit=limit, found=drop.high, text=text
    )


def _classes(card: ReportCard, limit: float) -> GateCheck:
    drops = {each.label: _drop(each.difference) for each in card.answers.classes}
    samples = {each.label: each.samples for each in card.answers.classes}
    verdicts = {label: _verdict(drop, limit) for label, drop in drops.items()}
    verdict = _worst(verdicts.values())
    label = max(
        (label for label, each in verdicts.items() if each == verdict),
        key=lambda label: drops[label].high,
    )
    drop = drops[label]
    text = (
        f"accuracy in class {label} drops by {_points(drop.value)} {_range(drop)}, the most of "
        f"{len(drops)} classes; {_points(limit)} are allowed"
    )
    if verdict == "inconclusive":
        what = f"test samples of class {label}"
        text += f". {_decisive(drop, limit, samples[label], what)}"
    return GateCheck(
        rule="max_class_drop", verdict=verdict, limit=limit, found=drop.high, text=text
    )


def _memory(
    card: ReportCard, others: Mapping[str, ReportCard], limit: int, replicas: int
) -> GateCheck:
    rest = replicas * sum(other.resident_bytes for other in others.values())
    total = rest + replicas * card.resident_bytes
    text = (
        f"all hosts together use {_mib(total)}, of which this variant uses "
        f"{_mib(replicas * card.resident_bytes)}; {_mib(limit)} are allowed"
    )
    verdict: GateVerdict = "pass" if total <= limit else "fail"
    return GateCheck(rule="memory_bytes", verdict=verdict, limit=limit, found=total, text=text)


def _dominated(card: ReportCard, others: Mapping[str, ReportCard]) -> GateCheck:
    """Fail if another variant is shown to be at least as good in everything, and better in speed.

    A difference within noise counts in favour of the new variant.
    """
    by = [name for name, other in others.items() if _is_better(other, card)]
    if by:
        text = (
            f"{', '.join(by)} is at least as accurate, faster at every batch size, and takes no "
            "more memory, so no request would need this variant"
        )
        return GateCheck(rule="allow_dominated", verdict="fail", limit=None, found=None, text=text)
    text = "no other variant is more accurate, faster and smaller"
    return GateCheck(rule="allow_dominated", verdict="pass", limit=None, found=None, text=text)


def _is_better(other: ReportCard, card: ReportCard) -> bool:
    if other.hardware.key != card.hardware.key or other.resident_bytes > card.resident_bytes:
        return False
    if other.accuracy_difference.low < card.accuracy_difference.high:
        return False
    pairs = _common_sizes(other.latencies, card.latencies)
    return bool(pairs) and all(_is_faster(one, two) for one, two in pairs)


def _common_sizes(
    one: Iterable[BatchLatency], two: Iterable[BatchLatency]
) -> list[tuple[BatchLatency, BatchLatency]]:
    sizes = {latency.batch_size: latency for latency in two}
    return [(each, sizes[each.batch_size]) for each in one if each.batch_size in sizes]


def _is_faster(one: BatchLatency, two: BatchLatency) -> bool:
    """Return whether the speedups over dense, in one runtime, have separate intervals."""
    runtimes = one.dense_p50_s.keys() & two.dense_p50_s.keys()
    if not runtimes:
        return False
    runtime = min(runtimes)
    low = one.speedup.low * one.dense_p50_s[runtime] / one.dense_p50_s[one.reference]
    high = two.speedup.high * two.dense_p50_s[runtime] / two.dense_p50_s[two.reference]
    return low > high


def _drop(difference: Interval) -> Interval:
    return Interval(value=-difference.value, low=-difference.high, high=-difference.low)


def _verdict(drop: Interval, limit: float) -> GateVerdict:
    if drop.high <= limit:
        return "pass"
    return "fail" if drop.low > limit else "inconclusive"


def _worst(verdicts: Iterable[GateVerdict]) -> GateVerdict:
    return max(verdicts, key=_ORDER.index)


def _decisive(drop: Interval, limit: float, samples: int, what: str) -> str:
    """Return how many samples would decide, since an interval narrows with their square root.

    The number applies if the drop is the one that the present samples show.
    """
    reach = drop.high - drop.value if drop.value <= limit else drop.value - drop.low
    distance = abs(limit - drop.value)
    needed = samples * (reach / distance) ** 2 if distance > 0 else math.inf
    if needed > _MOST_SAMPLES:
        return f"The drop is too close to the limit for any number of {what} to decide"
    return f"About {math.ceil(needed):,} {what} instead of {samples:,} would decide"


def _points(share: float) -> str:
    return f"{100 * share:.2f} points"


def _range(drop: Interval) -> str:
    return f"[{100 * drop.low:+.2f}, {100 * drop.high:+.2f}]"


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
