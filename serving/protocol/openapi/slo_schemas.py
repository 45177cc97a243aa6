"""JSON Schemas of the SLO parameters of a request and of the explanation in a response.

The names come from `slo.PARAMETERS` and `slo.HEADERS`. A name without a description here raises a
`KeyError` when the document is made, and so in every test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

from serving.routing.slo import HEADERS, MAX_PRIORITY, PARAMETERS, Objective

Schema = dict[str, Any]

_FRACTION: Final = {"type": "number", "minimum": 0, "maximum": 1}

_PARAMETERS: Final[Mapping[str, Schema]] = {
    "timeout": {
        "type": "number",
        "minimum": 0,
        "description": "Deadline in microseconds, as the protocol defines it. `slo_latency_ms` "
        "takes precedence. 0 means no deadline.",
    },
    "slo_latency_ms": {
        "type": "number",
        "exclusiveMinimum": 0,
        "description": "Deadline in milliseconds after the receipt of the request.",
    },
    "min_accuracy": {
        **_FRACTION,
        "description": "Only variants with at least this measured accuracy qualify.",
    },
    "max_accuracy_drop": {
        **_FRACTION,
        "description": "Only variants whose drop in accuracy relative to dense is at most this "
        "qualify. The upper end of the 95 % interval of the drop counts.",
    },
    "objective": {
        "enum": list(get_args(Objective)),
        "description": "What to prefer among the variants that qualify. The default is accuracy.",
    },
    "priority": {
        "type": "integer",
        "minimum": 0,
        "maximum": MAX_PRIORITY,
        "description": "1 is the highest priority, 0 the default. It orders requests with equal "
        "deadlines and decides which are rejected first under overload.",
    },
    "variant": {
        "type": "string",
        "description": "Pins a variant. This overrides the router and the accuracy floor, but not "
        "the deadline.",
    },
}

EXPLANATION: Final[Mapping[str, Schema]] = {
    "variant": {"type": "string", "description": "The variant that ran."},
    "generation": {
        "type": "integer",
        "minimum": 1,
        "description": "The generation of the variant. A variant gets a new one when it is "
        "replaced.",
    },
    "reason": {"type": "string", "description": "Why this variant was chosen."},
    "accuracy": {**_FRACTION, "description": "The measured accuracy of the variant."},
    "predicted_latency_ms": {
        "type": "number",
        "minimum": 0,
        "description": "Latency of the batch in milliseconds that the router predicted.",
    },
    "latency_ms": {
        "type": "number",
        "minimum": 0,
        "description": "Milliseconds from the receipt of the request to its response.",
    },
    "queue_ms": {
        "type": "number",
        "minimum": 0,
        "description": "Part of `latency_ms` in which the request waited for a replica.",
    },
    "compute_ms": {
        "type": "number",
        "minimum": 0,
        "description": "Part of `latency_ms` in which the variant computed the batch.",
    },
    "batch_size": {
        "type": "integer",
        "minimum": 1,
        "description": "Samples in the batch, including those of other requests.",
    },
    "deadline_met": {"type": "boolean", "description": "Whether the response met the deadline."},
}

EXPERIMENT: Final[Mapping[str, Schema]] = {
    "experiment": {
        "type": "string",
        "description": "The experiment that the request took part in.",
    },
    "arm": {"type": "string", "description": "The arm of the experiment that was assigned."},
}
"""Fields that are present only if the request took part in an experiment."""


def slo_parameters(variants: Sequence[str]) -> dict[str, Schema]:
    """Return the schema of each SLO parameter of a request by name."""
    return {
        name: {**_PARAMETERS[name], **({"enum": list(variants)} if field == "variant" else {})}
        for name, (field, _) in PARAMETERS.items()
    }


def slo_headers(variants: Sequence[str]) -> dict[str, Schema]:
    """Return the schema of each SLO header by name."""
    by_field = {
        field: schema
        for (field, _), schema in zip(
            PARAMETERS.values(), slo_parameters(variants).values(), strict=True
        )
    }
    return {name: by_field[field] for name, (field, _) in HEADERS.items()}
