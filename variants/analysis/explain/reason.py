"""Why a variant is not faster than dense: codes, each decided by a rule over measured facts.

    Facts (times per layer, how weights are stored, report card) ─▶ RULES ─▶ Reasons

Pure functions. Where it is faster the only code is `none`; where no rule fits, `unexplained`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final, Literal, TypeAlias

from variants.catalog.catalog import Interval, Runtime
from variants.catalog.record import Record

Code: TypeAlias = Literal[
    "none", "mask-only", "odd-channels", "past-crossover", "below-crossover", "unsupported-shape",
    "padded", "wrong-runtime", "dequantised", "storage-only", "conversion", "overhead-bound",
    "unexplained",
]  # fmt: skip

LANES: Final = 8
"""FP32 numbers in a 256-bit register: channels are best a multiple of it, or of twice it."""
_MASKED: Final = 0.25
"""More zeros than dense by this share are a mask, and no accident of training or rounding."""
_DEARER: Final = 1.1
"""So much more time for each weight than dense takes is more than noise between two profiles."""
_MUCH: Final = 0.2
"""Of a call's time: a layer that takes less does not decide it."""
_SOME: Final = 0.1
_CONVERTING: Final = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_STAYS_DENSE: Final = re.compile(r"layer (?P<layer>\S+) stays dense: (?P<why>[^;]+)")


class Reason(Record):
    """A code and the sentence that says what it rests on."""

    code: Code
    text: str


@dataclass(frozen=True)
class Side:
    """One layer in one of the two models."""

    shape: tuple[int, ...]
    form: str
    """How its weight is stored, as `choosing.graph.Stored` has it."""
    zeros: float
    padding: int
    arithmetic: str
    """The type that its product was seen to be computed in."""
    seconds: float

    @property
    def seconds_per_weight(self) -> float:
        """What each weight of it costs in a call, zeros counted too."""
        return self.seconds / max(1, prod(self.shape))


@dataclass(frozen=True)
class LayerTiming:
    """A layer that multiplies by a weight; None on the side that does not have it."""

    name: str
    dense: Side | None
    variant: Side | None


@dataclass(frozen=True)
class Facts:
    """All that the rules may look at; every time is of one call at the batch size."""

    batch_size: int
    runner: Runtime
    dense_runner: Runtime
    """Of the dense variant as it is served."""
    speedup: Interval
    speedups: Mapping[int, Interval]
    """By batch size, from the report card; may be empty."""
    seconds: float
    dense_seconds: float
    layers: tuple[LayerTiming, ...]
    other_seconds: Mapping[str, float]
    """Of the variant's operators that are no layer's, by kind."""
    notes: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[str, Side, Side]]:
        """The layers that both have: name, dense's side, the variant's."""
        return [
            (one.name, one.dense, one.variant) for one in self.layers if one.dense and one.variant
        ]


Rule: TypeAlias = Callable[[Facts], str | None]
"""Returns the sentence of its reason, or None where it does not apply."""


def reasons(facts: Facts) -> tuple[Reason, ...]:
    """Return what the rules find, in their order."""
    if facts.speedup.low > 1:
        return (
            Reason(code="none", text=f"it is faster: {_ratio(facts.speedup)} of dense's speed"),
        )
    found = [
        Reason(code=code, text=text)
        for code, rule in RULES.items()
        if (text := rule(facts)) is not None
    ]
    return tuple(found) or (Reason(code="unexplained", text=_unexplained(facts)),)


def _mask_only(facts: Facts) -> str | None:
    masked = [
        (name, variant.zeros)
        for name, dense, variant in facts.pairs
        if variant.zeros >= dense.zeros + _MASKED
        and variant.shape == dense.shape
        and variant.form == dense.form
    ]
    if not masked:
        return None
    share = sum(zeros for _, zeros in masked) / len(masked)
    return (
        f"{share:.0%} of the weights of {_names(name for name, _ in masked)} are zero, and are "
        f"stored and multiplied like any others: a mask alone saves no work"
    )


def _odd_channels(facts: Facts) -> str | None:
    odd = [
        f"{name} {_shape(dense)} to {_shape(variant)}, "
        f"{variant.seconds_per_weight / dense.seconds_per_weight:.1f}x the time for each weight"
        for name, dense, variant in facts.pairs
        if variant.shape != dense.shape
        and any(
            now % LANES and not before % LANES
            for now, before in zip(variant.shape[:2], dense.shape[:2], strict=False)
        )
        and variant.seconds_per_weight > _DEARER * dense.seconds_per_weight
    ]
    if not odd:
        return None
    return (
        f"sizes that are no multiple of {LANES} or {2 * LANES} leave vector registers partly "
        f"empty: {'; '.join(odd)}; prune with round_to: {LANES}"
    )


def _past_crossover(facts: Facts) -> str | None:
    faster = [size for size, ratio in facts.speedups.items() if ratio.low > 1]
    smaller = [size for size in faster if size < facts.batch_size]
    if not smaller or any(size > facts.batch_size for size in faster):
        return None
    return (
        f"it is faster up to batch {max(smaller)} ({_ratio(facts.speedups[max(smaller)])}), and "
        f"not at {facts.batch_size}: dense gains more from a larger batch"
    )


def _below_crossover(facts: Facts) -> str | None:
    larger = [s for s, ratio in facts.speedups.items() if ratio.low > 1 and s > facts.batch_size]
    if not larger:
        return None
    return (
        f"it is faster from batch {min(larger)} ({_ratio(facts.speedups[min(larger)])}), and not "
        f"yet at {facts.batch_size}"
    )


def _unsupported_shape(facts: Facts) -> str | None:
    left = {m["layer"]: m["why"] for note in facts.notes for m in _STAYS_DENSE.finditer(note)}
    slow = [
        f"{name} ({variant.seconds / facts.seconds:.0%} of the time): {left[name]}"
        for name, _, variant in facts.pairs
        if name in left and variant.seconds >= _MUCH * facts.seconds
    ]
    return f"layers that had to stay dense decide the time: {'; '.join(slow)}" if slow else None


def _padded(facts: Facts) -> str | None:
    padded = [
        f"{name}, {variant.padding} of {sum(variant.shape[:2])}"
        for name, dense, variant in facts.pairs
        if variant.padding > dense.padding
    ]
    if not padded:
        return None
    return f"rows and columns of nothing but zeros are computed: {'; '.join(padded)}"


def _wrong_runtime(facts: Facts) -> str | None:
    if facts.runner == facts.dense_runner:
        return None
    dense = sum(side.seconds for _, side, _ in facts.pairs)
    variant = sum(side.seconds for _, _, side in facts.pairs)
    if not facts.pairs or variant < dense:
        return None
    return (
        f"dense runs in {_RUNTIMES[facts.dense_runner]} and this in {_RUNTIMES[facts.runner]}, "
        f"which has no faster kernel for it: the same layers take {_ms(variant)} instead of "
        f"{_ms(dense)}"
    )


def _dequantised(facts: Facts) -> str | None:
    floating = [
        name
        for name, _, variant in facts.pairs
        if variant.form in ("int8", "uint8") and variant.arithmetic.startswith("float")
    ]
    if not floating:
        return None
    return (
        f"{_names(floating)} are stored in INT8 and multiplied in float: the runtime fused no "
        f"integer product"
    )


def _storage_only(facts: Facts) -> str | None:
    decoded = [
        (name, variant.form)
        for name, dense, variant in facts.pairs
        if variant.form not in (dense.form, "int8", "uint8")
        and variant.arithmetic == dense.arithmetic
    ]
    if not decoded:
        return None
    forms = sorted({form for _, form in decoded})
    return (
        f"{_names(name for name, _ in decoded)} are stored as {' and '.join(forms)}, decoded when "
        f"loaded, and multiplied in {facts.pairs[0][1].arithmetic}: less to store, as much to do"
    )


def _conversion(facts: Facts) -> str | None:
    spent = sum(s for kind, s in facts.other_seconds.items() if kind in _CONVERTING)
    if spent < _SOME * facts.dense_seconds:
        return None
    return (
        f"converting activations to INT8 and back takes {_ms(spent)}, "
        f"{spent / facts.dense_seconds:.0%} of dense's whole time"
    )


def _overhead_bound(facts: Facts) -> str | None:
    products = sum(one.dense.seconds for one in facts.layers if one.dense)
    if products >= facts.dense_seconds / 2:
        return None
    return (
        f"of the {_ms(facts.dense_seconds)} that dense takes, its layers are {_ms(products)}: the "
        f"rest is calls and other operators, which a smaller layer does not shorten"
    )


def _unexplained(facts: Facts) -> str:
    worst = max(facts.pairs, key=lambda pair: pair[2].seconds - pair[1].seconds, default=None)
    if worst is None:
        return "no rule fits, and no layer could be set beside one of dense's"
    name, dense, variant = worst
    return (
        f"no rule fits; the layer that fares worst is {name}, {_ms(variant.seconds)} instead of "
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
    listed: Sequence[str] = list(names)
    shown = ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")
    return f"layer {shown}" if len(listed) == 1 else f"layers {shown}"


def _shape(side: Side) -> str:
    return "x".join(str(size) for size in side.shape[:2])


def _ratio(interval: Interval) -> str:
    return f"{interval.value:.2f}x [{interval.low:.2f}, {interval.high:.2f}]"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
