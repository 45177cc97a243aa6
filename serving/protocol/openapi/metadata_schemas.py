"""JSON Schemas of the metadata documents that `serving.protocol.documents` makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from variants.catalog.catalog import Model, TensorSpec

Schema = dict[str, Any]


def metadata_schemas(model: Model, variants: Sequence[str]) -> dict[str, Schema]:
    """Return the schema of each document by name."""
    name, variant = {"const": model.name}, {"enum": list(variants)}
    return {
        "Live": _object(live={"const": True}),
        "Ready": _with_reason(_object(ready={"type": "boolean"}, live={"const": True})),
        "ModelReady": _with_reason(_object(name=name, ready={"type": "boolean"})),
        "Server": _object(
            name={"type": "string"},
            version={"type": "string"},
            extensions=_list({"type": "string"}),
        ),
        "Models": _object(models=_list(name)),
        "Model": _object(
            name=name,
            versions=_list(variant, description="Names of the variants."),
            platform={"type": "string"},
            inputs=_tensors(model.inputs),
            outputs=_tensors(model.outputs),
        ),
        "ModelConfig": _object(
            name=name,
            platform={"type": "string"},
            backend={"type": "string"},
            version_policy={"type": "object"},
            max_batch_size={"type": "integer", "minimum": 1},
            input=_tensor_configs(model.inputs),
            output=_tensor_configs(model.outputs),
            instance_group=_list(
                _object(
                    name={**variant, "description": "Name of a variant."},
                    kind={"type": "string"},
                    count=_count("Batches that its live replicas can run at the same time."),
                )
            ),
            parameters={"type": "object"},
            dynamic_batching={"type": "object"},
        ),
        "Statistics": _object(model_stats=_list(_statistics(name, variant))),
        "Index": _list(
            _object(
                name=name,
                version=variant,
                state={"enum": ["READY", "UNAVAILABLE"]},
                reason={"type": "string"},
            )
        ),
    }


def _statistics(name: Schema, variant: Schema) -> Schema:
    duration = _object(count=_count(), ns=_count("Total time in nanoseconds."))
    stages = {
        "compute_input": duration,
        "compute_infer": duration,
        "compute_output": duration,
    }
    return _object(
        name=name,
        version=variant,
        last_inference=_count(
            "Unix time of the last inference in milliseconds; 0 if there was none."
        ),
        inference_count=_count("Number of samples."),
        execution_count=_count("Number of batches."),
        inference_stats=_object(
            success=duration,
            fail=duration,
            queue=duration,
            **stages,
            cache_hit=duration,
            cache_miss=duration,
        ),
        batch_stats=_list(_object(batch_size=_count(), **stages)),
        memory_usage=_list(
            _object(type={"enum": ["CPU", "GPU"]}, id={"type": "integer"}, byte_size=_count())
        ),
    )


def _tensors(specs: Sequence[TensorSpec]) -> Schema:
    return _list(
        _object(
            name={"enum": [spec.name for spec in specs]},
            datatype={"enum": sorted({spec.datatype for spec in specs})},
            shape=_list(
                {"type": "integer"},
                description="-1 means any size. The first dimension is the batch.",
            ),
        )
    )


def _tensor_configs(specs: Sequence[TensorSpec]) -> Schema:
    return _list(
        _object(
            name={"enum": [spec.name for spec in specs]},
            data_type={"type": "string", "pattern": "^TYPE_"},
            dims=_list({"type": "integer"}, description="Without the batch dimension."),
        )
    )


def _object(**properties: Mapping[str, Any]) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _with_reason(schema: Schema) -> Schema:
    """Return the schema of a document that says why it is not ready, if it is not."""
    reason = {"type": "string", "description": "Why it is not ready; absent if it is."}
    return {**schema, "properties": {**schema["properties"], "reason": reason}}


def _list(items: Schema, **keywords: Any) -> Schema:
    return {"type": "array", "items": items, **keywords}


def _count(description: str = "") -> Schema:
    described = {"description": description} if description else {}
    return {"type": "integer", "minimum": 0, **described}
