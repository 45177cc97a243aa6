"""JSON Schemas of a request to infer and of its answer, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, Final

import numpy as np

from serving.protocol.json_tensor import BINARY_ONLY
from serving.protocol.openapi.slo import EXPERIMENT, EXPLANATION, slo_parameters
from variants.catalog.catalog import Model, TensorSpec
from variants.catalog.datatype import NUMPY
from variants.catalog.zero_inputs import zero_input

Schema = dict[str, Any]

_SHARED_MEMORY: Final = "^shared_memory_"

_SCALAR: Final = {"type": ["string", "number", "boolean"]}


def travel_as_json(specs: Iterable[TensorSpec]) -> bool:
    """Return whether a JSON document can hold all these tensors."""
    return BINARY_ONLY.isdisjoint(spec.datatype for spec in specs)


def infer_request(variants: Sequence[str]) -> Schema:
    """Describe a request to infer that is all JSON; without variants, one whose path names it."""
    slo = slo_parameters(variants)
    if not variants:
        del slo["variant"]
    flag = {"type": "boolean", "description": "Send all outputs as binary tensors."}
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": ["string", "null"], "description": "Comes back with the answer."},
            "parameters": {
                "type": ["object", "null"],
                "description": "What is asked for. A parameter wins over a header; parameters of "
                "the client's own come back with the answer.",
                "properties": {**slo, "binary_data_output": flag},
                "additionalProperties": _SCALAR,
            },
            "inputs": {"$ref": "#/components/schemas/Inputs"},
            "outputs": {"anyOf": [{"$ref": "#/components/schemas/Outputs"}, {"type": "null"}]},
        },
    }


def request_tensors(model: Model, max_batch: int) -> dict[str, Schema]:
    """Describe what `infer_request` refers to; the model's inputs must `travel_as_json`."""
    flag = {"type": "boolean", "description": "Send this output as a binary tensor."}
    return {
        "Inputs": {
            "type": "array",
            "description": f"Every input of the model, once, with 1 to {max_batch} samples.",
            "items": _one_of(
                [
                    described
                    for spec in model.inputs
                    for described in (_one_sample(spec), _batch(spec, max_batch))
                ]
            ),
            "minItems": len(model.inputs),
            "maxItems": len(model.inputs),
        },
        "Outputs": {
            "type": "array",
            "description": "The outputs to send, each once; all of them if none is named.",
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
    """Describe an answer that is all JSON."""
    return {
        "type": "object",
        "required": ["model_name", "model_version", "parameters", "outputs"],
        "properties": {
            "model_name": {"const": model.name},
            "model_version": {"enum": list(variants), "description": "The variant that answered."},
            "id": {"type": "string", "description": "The request's own."},
            "parameters": {
                "type": "object",
                "description": "Why this variant, and what it took.",
                "required": list(EXPLANATION),
                "properties": {**EXPLANATION, **EXPERIMENT},
                "additionalProperties": _SCALAR,
            },
            "outputs": {
                "type": "array",
                "items": _one_of(
                    [_output(spec) for spec in model.outputs if travel_as_json([spec])]
                ),
                "minItems": 1,
                "maxItems": len(model.outputs),
            },
        },
    }


def example_request(model: Model) -> dict[str, Any]:
    """Return a request that works: one sample of zeros, to be answered within a second."""
    inputs = []
    for spec in model.inputs:
        sample = zero_input(spec, 1)
        inputs.append(
            {
                "name": spec.name,
                "datatype": spec.datatype,
                "shape": list(sample.shape),
                "data": ["" if value == b"" else value for value in sample.ravel().tolist()],
            }
        )
    return {"parameters": {"slo_latency_ms": 1000}, "inputs": inputs}


def _one_of(schemas: list[Schema]) -> Schema:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _one_sample(spec: TensorSpec) -> Schema:
    """Describe the shortest valid tensor exactly: here shape and data can be tied together."""
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
    least = prod(max(size, 0) for size in spec.shape[1:])
    flat = {"type": "array", "items": values, "minItems": least}
    batch = {"type": "array", "items": nested, "minItems": 1, "maxItems": max_batch}
    return _input(
        spec,
        _shape(spec, max_batch),
        flat if len(spec.shape) == 1 else {"anyOf": [flat, batch]},
        "A batch, flat in row-major order or nested: as many values as its shape says.",
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
            "description": "null where it is no finite number, which JSON cannot say.",
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
                "description": f"{list(spec.shape)}, where -1 is any size.",
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
        most = float(np.finfo(dtype).max)
        return {"type": "number", "minimum": -most, "maximum": most}
    integers = np.iinfo(dtype)
    return {"type": "integer", "minimum": int(integers.min), "maximum": int(integers.max)}
