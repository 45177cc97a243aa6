"""JSON Schemas of what a request can ask and what an answer explains, for the OpenAPI document.

The names are those of `slo.PARAMETERS` and `slo.HEADERS`: one that is there and not described here
is a `KeyError` when the document is made, and so in every test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

from serving.routing.slo import HEADERS, MAX_PRIORITY, PARAMETERS, Objective

Schema = dict[str, Any]

_SHARE: Final = {"type": "number", "minimum": 0, "maximum": 1}

_PARAMETERS: Final[Mapping[str, Schema]] = {
    "timeout": {
        "type": "number",
        "minimum": 0,
        "description": "Microseconds: the protocol's own word for `slo_latency_ms`, which wins; 0 "
        "is none.",
    },
    "slo_latency_ms": {
        "type": "number",
        "exclusiveMinimum": 0,
        "description": "Milliseconds: answer within this time of the receipt of the request.",
    },
    "min_accuracy": {
        **_SHARE,
        "description": "Only variants whose measured accuracy is at least this.",
    },
    "max_accuracy_drop": {
        **_SHARE,
        "description": "Only variants whose drop of accuracy against dense, by the upper end of "
        "its 95 % interval, is at most this.",
    },
    "objective": {
        "enum": list(get_args(Objective)),
        "description": "What to prefer among the variants that qualify; accuracy if not said.",
    },
    "priority": {
        "type": "integer",
        "minimum": 0,
        "maximum": MAX_PRIORITY,
        "description": "1 is the highest, 0 the default: the order among equal deadlines, and who "
        "is refused first.",
    },
    "variant": {
        "type": "string",
        "description": "Pin one variant: overrides the router and the accuracy floors, not the "
        "deadline.",
    },
}

EXPLANATION: Final[Mapping[str, Schema]] = {
    "variant": {"type": "string", "description": "The variant that answered."},
    "reason": {"type": "string", "description": "Why this variant."},
    "accuracy": {**_SHARE, "description": "Its measured accuracy."},
    "predicted_latency_ms": {
        "type": "number",
        "minimum": 0,
        "description": "What the router expected of the batch when it chose.",
    },
    "latency_ms": {
        "type": "number",
        "minimum": 0,
        "description": "From the receipt of the request to its answer.",
    },
    "queue_ms": {"type": "number", "minimum": 0, "description": "Of that: waiting for a replica."},
    "compute_ms": {"type": "number", "minimum": 0, "description": "Of that: computing the batch."},
    "batch_size": {
        "type": "integer",
        "minimum": 1,
        "description": "Samples in the batch, those of other requests included.",
    },
    "deadline_met": {"type": "boolean", "description": "Answered within the time asked for."},
}

EXPERIMENT: Final[Mapping[str, Schema]] = {
    "experiment": {"type": "string", "description": "The experiment that the request was in."},
    "arm": {"type": "string", "description": "Its arm of the experiment."},
}
"""Only in the answers to requests that are in an experiment."""


def slo_parameters(variants: Sequence[str]) -> dict[str, Schema]:
    """Return by name the schema of each request parameter that states an SLO."""
    return {
        name: {**_PARAMETERS[name], **({"enum": list(variants)} if field == "variant" else {})}
        for name, (field, _) in PARAMETERS.items()
    }


def slo_headers(variants: Sequence[str]) -> dict[str, Schema]:
    """Return by name the schema of each header that states an SLO."""
    by_field = {
        field: schema
        for (field, _), schema in zip(
            PARAMETERS.values(), slo_parameters(variants).values(), strict=True
        )
    }
    return {name: by_field[field] for name, (field, _) in HEADERS.items()}
