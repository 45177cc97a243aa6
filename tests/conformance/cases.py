"""What every client must be answered, and what it must be refused, whatever its transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MODEL: Final = "small"
"""The name of the model of `tests.small`."""

VARIANTS: Final = ("dense", "activation-pruned", "sparse-2:4", "int8")


@dataclass(frozen=True)
class Wish:
    """A request with parameters or headers, and the parameters of an answer that met them."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of tritonclient's own for the same thing."""
    answer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_fraction(self) -> bool:
        """Whether a parameter is no whole number, which not every client can send."""
        return any(isinstance(value, float) for value in self.parameters.values())


WISHES: Final[dict[str, Wish]] = {
    "a deadline": Wish({"slo_latency_ms": 60_000.5}, answer={"deadline_met": True}),
    "a deadline that is a whole number": Wish(
        {"slo_latency_ms": 60_000}, answer={"deadline_met": True}
    ),
    "a deadline in a header": Wish(
        headers={"x-slo-latency-ms": "60000"}, answer={"deadline_met": True}
    ),
    "the protocol's own timeout": Wish(
        options={"timeout": 60_000_000}, answer={"deadline_met": True}
    ),
    "the protocol's own priority": Wish(options={"priority": 1}),
    "an accuracy floor": Wish({"min_accuracy": 0.01}),
    "an accuracy floor in a header": Wish(headers={"x-slo-min-accuracy": "0.01"}),
    "an objective": Wish({"objective": "latency"}),
    "a variant": Wish({"variant": "sparse-2:4"}, answer={"variant": "sparse-2:4"}),
    "a variant in a header": Wish(headers={"x-slo-variant": "int8"}, answer={"variant": "int8"}),
    "a sequence, which means nothing here": Wish(
        options={"sequence_id": 7, "sequence_start": True, "sequence_end": True}
    ),
}


@dataclass(frozen=True)
class Refusal:
    """A request that is refused, the statuses that say so, and a part of the message."""

    http: int
    grpc: str
    message: str
    model: str = MODEL
    shape: tuple[int, ...] = (1, 784)
    datatype: str = "FP32"
    output: str = "logits"
    options: Mapping[str, Any] = field(default_factory=dict)


REFUSALS: Final[dict[str, Refusal]] = {
    "an unknown model": Refusal(
        404, "NOT_FOUND", "there is no model 'other'; there is 'small'", model="other"
    ),
    "an unknown version": Refusal(
        404,
        "NOT_FOUND",
        "there is no variant 'nine'; there are dense, ",
        options={"model_version": "nine"},
    ),
    "a wrong shape": Refusal(400, "INVALID_ARGUMENT", "shape", shape=(1, 5)),
    "a wrong rank": Refusal(400, "INVALID_ARGUMENT", "shape", shape=(784,)),
    "a wrong datatype": Refusal(400, "INVALID_ARGUMENT", "FP32", datatype="FP64"),
    "an unknown output": Refusal(400, "INVALID_ARGUMENT", "logits", output="probabilities"),
    "a bad parameter": Refusal(
        400,
        "INVALID_ARGUMENT",
        "'slo_latency_ms' must be above 0",
        options={"parameters": {"slo_latency_ms": -1}},
    ),
    "a deadline nothing can meet": Refusal(
        422, "FAILED_PRECONDITION", "even when idle: the fastest is", options={"timeout": 1}
    ),
    "an accuracy nothing has": Refusal(
        422,
        "FAILED_PRECONDITION",
        "the best accuracy is",
        options={"parameters": {"min_accuracy": 1}},
    ),
}
