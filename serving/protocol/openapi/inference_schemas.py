"""JSON Schemas of inference requests and responses, and an example request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, Final

import numpy as np

from serving.protocol.openapi.slo_schemas import EXPERIMENT, EXPLANATION, slo_parameters
from serving.protocol.tensor import BINARY_ONLY
from variants.catalog.catalog import Model, TensorSpec
from variants.catalog.datatype import NUMPY
from variants.catalog.zero_inputs import zero_input

Schema = dict[str, Any]

_SHARED_MEMORY: Final = "^shared_memory_"

_SCALAR: Final = {"type": ["string", "number", "boolean"]}


def is_json_capable(specs: Iterable[TensorSpec]) -> bool:
    """Return whether all these tensors can be sent as JSON."""
    return BINARY_ONLY.isdisjoint(spec.datatype for spec in specs)


def infer_request(variants: Sequence[str]) -> Schema:
    """Return the schema of a request that is all JSON.

    Without variants it is the request of a route whose path names the variant.
    """
    slo = slo_parameters(variants)
    if not variants:
        del slo["variant"]
    flag = {"type": "boolean", "description": "Return all outputs as binary tensors."}
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": ["string", "null"], "description": "Repeated in the response."},
            "parameters": {
                "type": ["object", "null"],
                "description": "The SLO of the request. Parameters take precedence over headers. "
                "The response repeats parameters that the service does not know.",
                "properties": {**slo, "binary_data_output": flag},
                "additionalProperties": _SCALAR,
            },
            "inputs": {"$ref": "#/components/schemas/Inputs"},
            "outputs": {"anyOf": [{"$ref": "#/components/schemas/Outputs"}, {"type": "null"}]},
        },
    }


def request_tensors(model: Model, max_batch: int) -> dict[str, Schema]:
    """Return the schemas that `infer_request` refers to; the inputs must be JSON-capable."""
    flag = {"type": "boolean", "description": "Return this output as a binary tensor."}
    return {
        "Inputs": {
            "type": "array",
            "description": f"Each input of the model exactly once, with 1 to {max_batch} samples.",
            "items": _one_of(
                [
                    schema
                    for spec in model.inputs
                    for schema in (_one_sample(spec), _batch(spec, max_batch))
                ]
            ),
            "minItems": len(model.inputs),
            "maxItems": len(model.inputs),
        },
        "Outputs": {
            "type": "array",
            "description": "The outputs to return, each at most once. An empty list returns all.",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"enum": [spec.name for spec in model.outputs]},
                    "parameters": {
                        "type": ["object", "null"],
                        "properties": {"binary_data": flag, "classification": False},
                        "patternProperties": {_SHARED_MEMORY: False},
                        "additionalProperties": _SCALAR,
                    },
                },
            },
            "maxItems": len(model.outputs),
            "uniqueItems": True,
        },
    }


def infer_response(model: Model, variants: Sequence[str]) -> Schema:
    """Return the schema of a response that is all JSON."""
    return {
        "type": "object",
        "required": ["model_name", "model_version", "parameters", "outputs"],
        "properties": {
            "model_name": {"const": model.name},
            "model_version": {"enum": list(variants), "description": "The variant that ran."},
            "id": {"type": "string", "description": "The id of the request."},
            "parameters": {
                "type": "object",
                "description": "Why this variant was chosen, and what the request took.",
                "required": list(EXPLANATION),
                "properties": {**EXPLANATION, **EXPERIMENT},
                "additionalProperties": _SCALAR,
            },
            "outputs": {
                "type": "array",
                "items": _one_of(
                    [_output(spec) for spec in model.outputs if is_json_capable([spec])]
                ),
                "minItems": 1,
                "maxItems": len(model.outputs),
            },
        },
    }


def example_request(inputs: Sequence[Schema]) -> dict[str, Any]:
    """Return a valid request: these inputs with a deadline of one second."""
    return {"parameters": {"slo_latency_ms": 1000}, "inputs": list(inputs)}


def _one_of(schemas: list[Schema]) -> Schema:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _one_sample(spec: TensorSpec) -> Schema:
    """Return the exact schema of one sample: its shape determines the length of its data."""
    sample = zero_input(spec, 1)
    return _input(
        spec,
        {"const": list(sample.shape)},
        {
            "type": "array",
            "items": _value(spec.datatype),
            "minItems": sample.size,
            "maxItems": sample.size,
        },
        "One sample.",
    )


def _batch(spec: TensorSpec, max_batch: int) -> Schema:
    values = nested = _value(spec.datatype)
    for size in reversed(spec.shape[1:]):
        bounds = {} if size < 0 else {"minItems": size, "maxItems": size}
        nested = {"type": "array", "items": nested, **bounds}
    min_values = prod(max(size, 0) for size in spec.shape[1:])
    flat = {"type": "array", "items": values, "minItems": min_values}
    batch = {"type": "array", "items": nested, "minItems": 1, "maxItems": max_batch}
    return _input(
        spec,
        _shape(spec, max_batch),
        flat if len(spec.shape) == 1 else {"anyOf": [flat, batch]},
        "A batch, nested or flat in row-major order. Its shape gives the number of values.",
    )


def _input(spec: TensorSpec, shape: Schema, data: Schema, description: str) -> Schema:
    return {
        "type": "object",
        "description": description,
        "required": ["name", "datatype", "shape", "data"],
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": spec.datatype},
            "shape": shape,
            "data": data,
            "parameters": {
                "type": ["object", "null"],
                "properties": {"binary_data_size": False},
                "patternProperties": {_SHARED_MEMORY: False},
                "additionalProperties": _SCALAR,
            },
        },
    }


def _output(spec: TensorSpec) -> Schema:
    value = _value(spec.datatype)
    if value["type"] == "number":
        value = {
            "type": ["number", "null"],
            "description": "null stands for NaN and infinities, which JSON cannot represent.",
        }
    return {
        "type": "object",
        "required": ["name", "datatype", "shape", "data"],
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": spec.datatype},
            "shape": {
                **_rank(spec),
                "items": {"type": "integer", "minimum": 0},
                "description": f"{list(spec.shape)}, where -1 means any size.",
            },
            "data": {"type": "array", "items": value},
        },
    }


def _shape(spec: TensorSpec, max_batch: int) -> Schema:
    dimensions = [
        {"type": "integer", "minimum": 0} if size < 0 else {"const": size}
        for size in spec.shape[1:]
    ]
    return {
        **_rank(spec),
        "prefixItems": [{"type": "integer", "minimum": 1, "maximum": max_batch}, *dimensions],
    }


def _rank(spec: TensorSpec) -> Schema:
    rank = len(spec.shape)
    return {"type": "array", "minItems": rank, "maxItems": rank}


def _value(datatype: str) -> Schema:
    dtype = NUMPY[datatype]
    if dtype.kind == "b":
        return {"type": "boolean"}
    if dtype.kind == "O":
        return {"type": "string"}
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max)
        return {"type": "number", "minimum": -largest, "maximum": largest}
    integers = np.iinfo(dtype)
    return {"type": "integer", "minimum": int(integers.min), "maximum": int(integers.max)}
