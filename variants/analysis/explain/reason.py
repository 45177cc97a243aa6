"""Reasons why a variant is not faster than dense: codes, each decided by a rule over measurements.

    Evidence (time per layer, how weights are stored, report card) ─▶ RULES ─▶ Reasons

Pure functions. The code of a faster variant is `none`; if no rule applies it is `unexplained`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

from variants.analysis.explain.evidence import Evidence, LayerExecution
from variants.catalog.catalog import Interval, Runtime
from variants.catalog.record import Record

Code: TypeAlias = Literal[
    "none", "mask-only", "odd-channels", "past-crossover", "below-crossover", "unsupported-shape",
    "padded", "wrong-runtime", "dequantised", "storage-only", "conversion", "overhead-bound",
    "unexplained",
]  # fmt: skip

LANES: Final = 8
"""FP32 numbers in a 256-bit register. Channel counts should be a multiple of it or of twice it."""
MASK_SHARE: Final = 0.25
"""If the share of zeros exceeds dense's by this much, the layer counts as masked."""
SLOWDOWN: Final = 1.1
"""A ratio of times per weight above this is more than the noise between two profiles."""
DECISIVE_SHARE: Final = 0.2
"""A layer below this share of a call's time is not taken as a cause."""
CONVERSION_SHARE: Final = 0.1
"""Conversions below this share of dense's time are not taken as a cause."""
_CONVERTING: Final = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_STAYS_DENSE: Final = re.compile(r"layer (?P<layer>\S+) stays dense: (?P<why>[^;]+)")


class Reason(Record):
    """A code and a sentence with the measurements behind it."""

    code: Code
    text: str


Rule: TypeAlias = Callable[[Evidence], str | None]
"""Returns the sentence of its reason, or None if it does not apply."""


def reasons(evidence: Evidence) -> tuple[Reason, ...]:
    """Return the reasons of all rules that apply, in the order of `RULES`."""
    if evidence.speedup.low > 1:
        return (
            Reason(code="none", text=f"it is faster: {_ratio(evidence.speedup)} of dense's speed"),
        )
    applying = [
        Reason(code=code, text=text)
        for code, rule in RULES.items()
        if (text := rule(evidence)) is not None
    ]
    return tuple(applying) or (Reason(code="unexplained", text=_unexplained(evidence)),)


def _mask_only(evidence: Evidence) -> str | None:
    masked = [
        (name, variant.zeros)
        for name, dense, variant in evidence.pairs
        if variant.zeros >= dense.zeros + MASK_SHARE
        and variant.shape == dense.shape
        and variant.form == dense.form
    ]
    if not masked:
        return None
    share = sum(zeros for _, zeros in masked) / len(masked)
    return (
        f"{share:.0%} of the weights of {_names(name for name, _ in masked)} are zero, but are "
        f"stored and multiplied like the others: a mask alone saves no work"
    )


def _odd_channels(evidence: Evidence) -> str | None:
    odd = [
        f"{name} {_shape(dense)} to {_shape(variant)}, "
        f"{variant.seconds_per_weight / dense.seconds_per_weight:.1f}x the time per weight"
        for name, dense, variant in evidence.pairs
        if variant.shape != dense.shape
        and any(
            now % LANES and not before % LANES
            for now, before in zip(variant.shape[:2], dense.shape[:2], strict=False)
        )
        and variant.seconds_per_weight > SLOWDOWN * dense.seconds_per_weight
    ]
    if not odd:
        return None
    return (
        f"sizes that are not a multiple of {LANES} or {2 * LANES} leave vector registers partly "
        f"empty: {'; '.join(odd)}; prune with round_to: {LANES}"
    )


def _past_crossover(evidence: Evidence) -> str | None:
    faster = [size for size, ratio in evidence.speedups.items() if ratio.low > 1]
    smaller = [size for size in faster if size < evidence.batch_size]
    if not smaller or any(size > evidence.batch_size for size in faster):
        return None
    return (
        f"it is faster up to batch {max(smaller)} ({_ratio(evidence.speedups[max(smaller)])}), but "
        f"not at {evidence.batch_size}: dense gains more from a larger batch"
    )


def _below_crossover(evidence: Evidence) -> str | None:
    larger = [
        s for s, ratio in evidence.speedups.items() if ratio.low > 1 and s > evidence.batch_size
    ]
    if not larger:
        return None
    smallest = min(larger)
    return (
        f"it is faster from batch {smallest} on ({_ratio(evidence.speedups[smallest])}), but not "
        f"at {evidence.batch_size}"
    )


def _unsupported_shape(evidence: Evidence) -> str | None:
    dense_layers = {
        m["layer"]: m["why"] for note in evidence.notes for m in _STAYS_DENSE.finditer(note)
    }
    slow = [
        f"{name} ({variant.seconds / evidence.seconds:.0%} of the time): {dense_layers[name]}"
        for name, _, variant in evidence.pairs
        if name in dense_layers and variant.seconds >= DECISIVE_SHARE * evidence.seconds
    ]
    return f"layers that stayed dense take much of the time: {'; '.join(slow)}" if slow else None


def _padded(evidence: Evidence) -> str | None:
    padded = [
        f"{name}, {variant.padding} of {sum(variant.shape[:2])}"
        for name, dense, variant in evidence.pairs
        if variant.padding > dense.padding
    ]
    if not padded:
        return None
    return f"rows and columns of zeros are computed: {'; '.join(padded)}"


def _wrong_runtime(evidence: Evidence) -> str | None:
    if evidence.runner == evidence.dense_runner:
        return None
    dense = sum(execution.seconds for _, execution, _ in evidence.pairs)
    variant = sum(execution.seconds for _, _, execution in evidence.pairs)
    if not evidence.pairs or variant < dense:
        return None
    return (
        f"dense runs in {_RUNTIMES[evidence.dense_runner]}, this in "
        f"{_RUNTIMES[evidence.runner]}, which has no faster kernel for it: the same layers take "
        f"{_ms(variant)} instead of {_ms(dense)}"
    )


def _dequantised(evidence: Evidence) -> str | None:
    floating = [
        name
        for name, _, variant in evidence.pairs
        if variant.form in ("int8", "uint8") and variant.arithmetic.startswith("float")
    ]
    if not floating:
        return None
    return (
        f"{_names(floating)} are stored in INT8 and multiplied in float: the runtime did not fuse "
        f"an integer product"
    )


def _storage_only(evidence: Evidence) -> str | None:
    decoded = [
        (name, variant.form)
        for name, dense, variant in evidence.pairs
        if variant.form not in (dense.form, "int8", "uint8")
        and variant.arithmetic == dense.arithmetic
    ]
    if not decoded:
        return None
    forms = sorted({form for _, form in decoded})
    return (
        f"{_names(name for name, _ in decoded)} are stored as {' and '.join(forms)}, decoded when "
        f"loaded, and multiplied in {evidence.pairs[0][1].arithmetic}: the file "
        f"is smaller, the computation is not"
    )


def _conversion(evidence: Evidence) -> str | None:
    spent = sum(s for kind, s in evidence.other_seconds.items() if kind in _CONVERTING)
    if spent < CONVERSION_SHARE * evidence.dense_seconds:
        return None
    return (
        f"converting activations to INT8 and back takes {_ms(spent)}, "
        f"{spent / evidence.dense_seconds:.0%} of dense's whole time"
    )


def _overhead_bound(evidence: Evidence) -> str | None:
    products = sum(layer.dense.seconds for layer in evidence.layers if layer.dense)
    if products >= evidence.dense_seconds / 2:
        return None
    return (
        f"of the {_ms(evidence.dense_seconds)} that dense takes, its layers take {_ms(products)}: "
        f"the rest is calls and other operators, which a smaller layer does not shorten"
    )


def _unexplained(evidence: Evidence) -> str:
    worst = max(evidence.pairs, key=lambda pair: pair[2].seconds - pair[1].seconds, default=None)
    if worst is None:
        return "no rule applies, and no layer could be paired with a layer of dense"
    name, dense, variant = worst
    return (
        f"no rule applies; layer {name} slowed down most, {_ms(variant.seconds)} instead of "
        f"{_ms(dense.seconds)}"
    )


RULES: Final[Mapping[Code, Rule]] = {
    "past-crossover": _past_crossover,
    "below-crossover": _below_crossover,
    "mask-only": _mask_only,
    "odd-channels": _odd_channels,
    "unsupported-shape": _unsupported_shape,
    "padded": _padded,
    "wrong-runtime": _wrong_runtime,
    "dequantised": _dequantised,
    "storage-only": _storage_only,
    "conversion": _conversion,
    "overhead-bound": _overhead_bound,
}

_RUNTIMES: Final[Mapping[Runtime, str]] = {"onnx": "onnxruntime", "torch": "torch"}


def _names(names: Iterable[str]) -> str:
    all_names: Sequence[str] = list(names)
    listed = ", ".join(all_names[:4]) + (
        f" and {len(all_names) - 4} more" if len(all_names) > 4 else ""
    )
    return f"layer {listed}" if len(all_names) == 1 else f"layers {listed}"


def _shape(execution: LayerExecution) -> str:
    return "x".join(str(size) for size in execution.shape[:2])


def _ratio(interval: Interval) -> str:
    return f"{interval.value:.2f}x [{interval.low:.2f}, {interval.high:.2f}]"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
