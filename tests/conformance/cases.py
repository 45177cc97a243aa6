"""Requests that every client must get a response or an error for, over any transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MODEL: Final = "small"
"""Name of the model that `tests.small` defines."""

VARIANTS: Final = ("dense", "activation-pruned", "sparse-2:4", "int8")


@dataclass(frozen=True)
class SloRequest:
    """Parameters or headers of a request, and parameters that its response must have."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of tritonclient that set a parameter."""
    expected: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_fraction(self) -> bool:
        """Whether a parameter is a float, which not every client can send."""
        return any(isinstance(value, float) for value in self.parameters.values())


SLO_REQUESTS: Final[dict[str, SloRequest]] = {
    "a deadline": SloRequest({"slo_latency_ms": 60_000.5}, expected={"deadline_met": True}),
    "a deadline as an integer": SloRequest(
        {"slo_latency_ms": 60_000}, expected={"deadline_met": True}
    ),
    "a deadline in a header": SloRequest(
        headers={"x-slo-latency-ms": "60000"}, expected={"deadline_met": True}
    ),
    "the timeout of the protocol": SloRequest(
        options={"timeout": 60_000_000}, expected={"deadline_met": True}
    ),
    "the priority of the protocol": SloRequest(options={"priority": 1}),
    "an accuracy floor": SloRequest({"min_accuracy": 0.01}),
    "an accuracy floor in a header": SloRequest(headers={"x-slo-min-accuracy": "0.01"}),
    "an objective": SloRequest({"objective": "latency"}),
    "a variant": SloRequest({"variant": "sparse-2:4"}, expected={"variant": "sparse-2:4"}),
    "a variant in a header": SloRequest(
        headers={"x-slo-variant": "int8"}, expected={"variant": "int8"}
    ),
    "a sequence, which is ignored": SloRequest(
        options={"sequence_id": 7, "sequence_start": True, "sequence_end": True}
    ),
}


@dataclass(frozen=True)
class Rejection:
    """A request that gets an error: its statuses, and a part of its message."""

    http: int
    grpc: str
    message: str
    model: str = MODEL
    shape: tuple[int, ...] = (1, 784)
    datatype: str = "FP32"
    output: str = "logits"
    options: Mapping[str, Any] = field(default_factory=dict)


REJECTIONS: Final[dict[str, Rejection]] = {
    "an unknown model": Rejection(
        404, "NOT_FOUND", "there is no model 'other'; there is 'small'", model="other"
    ),
    "an unknown version": Rejection(
        404,
        "NOT_FOUND",
        "there is no variant 'nine'; there are dense, ",
        options={"model_version": "nine"},
    ),
    "a wrong shape": Rejection(400, "INVALID_ARGUMENT", "shape", shape=(1, 5)),
    "a wrong rank": Rejection(400, "INVALID_ARGUMENT", "shape", shape=(784,)),
    "a wrong datatype": Rejection(400, "INVALID_ARGUMENT", "FP32", datatype="FP64"),
    "an unknown output": Rejection(400, "INVALID_ARGUMENT", "logits", output="probabilities"),
    "an invalid parameter": Rejection(
        400,
        "INVALID_ARGUMENT",
        "'slo_latency_ms' must be above 0",
        options={"parameters": {"slo_latency_ms": -1}},
    ),
    "an unattainable deadline": Rejection(
        422, "FAILED_PRECONDITION", "even when idle: the fastest is", options={"timeout": 1}
    ),
    "an unattainable accuracy": Rejection(
        422,
        "FAILED_PRECONDITION",
        "the best accuracy is",
        options={"parameters": {"min_accuracy": 1}},
    ),
}
