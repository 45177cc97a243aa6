"""The OpenAPI document of a gateway, for the model and the variants that it serves.

The modules beside this one hold its paths and its schemas. Statuses, SLO parameters, datatypes and
tensors come from the tables that the code itself uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from serving.protocol.inference import UNIT_HEADER
from serving.protocol.openapi.components import (
    BINARY,
    JSON_LENGTH,
    Json,
    error_responses,
    parameter,
)
from serving.protocol.openapi.inference_schemas import (
    infer_request,
    infer_response,
    is_json_capable,
    request_tensors,
)
from serving.protocol.openapi.metadata_schemas import metadata_schemas
from serving.protocol.openapi.paths import all_paths
from serving.protocol.openapi.slo_schemas import slo_headers
from variants.catalog.catalog import Model
from variants.catalog.sample_request import zeros

_DESCRIPTION: Final = """\
One trained model, served as several compressed variants. Each request is answered by the most
accurate variant that meets its deadline and its accuracy floor. The response names the variant and
the reason for the choice.

This is the Open Inference Protocol (V2) over HTTP. Every route with GET also supports HEAD.
"""


def openapi_document(
    model: Model,
    variants: Sequence[str],
    *,
    version: str,
    max_batch: int,
    max_body_bytes: int,
    inputs: Sequence[Json] | None = None,
) -> Json:
    """Return the OpenAPI 3.1 document as a JSON-compatible dictionary.

    `version` is the version of the service. A request holds at most `max_batch` samples and
    `max_body_bytes` bytes, compressed and decompressed. `inputs` are those of the example request,
    by default one sample of zeros.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Paretoserve",
            "version": version,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "inference", "description": "Inference"},
            {"name": "model", "description": "Model and variants"},
            {"name": "server", "description": "Server"},
        ],
        "paths": all_paths(model, max_body_bytes, zeros(model) if inputs is None else inputs),
        "components": {
            "schemas": _schemas(model, variants, max_batch),
            "parameters": _parameters(model, variants, max_body_bytes),
            "responses": error_responses(),
        },
    }


def _schemas(model: Model, variants: Sequence[str], max_batch: int) -> Json:
    schemas = metadata_schemas(model, variants)
    if is_json_capable(model.inputs):
        schemas["InferRequest"] = infer_request(variants)
        schemas["InferRequestOfVariant"] = infer_request(())
        schemas |= request_tensors(model, max_batch)
    if any(is_json_capable([spec]) for spec in model.outputs):
        schemas["InferResponse"] = infer_response(model, variants)
    schemas["Error"] = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {"type": "string", "description": "The cause and what would be valid."},
            "id": {"type": "string", "description": "The id of the request."},
        },
    }
    return schemas


def _parameters(model: Model, variants: Sequence[str], max_body_bytes: int) -> Json:
    length = {
        "type": "integer",
        "minimum": 0,
        "maximum": max_body_bytes,
        "description": f"For {BINARY}: the length of the JSON document in bytes. 0 means that "
        "there is no JSON document and that the body is one sample of the model's only input.",
    }
    coding = {
        "enum": ["identity", "gzip", "x-gzip", "deflate", ""],
        "description": "The compression of the body.",
    }
    unit = {
        "type": "string",
        "description": "The unit of randomization, such as a user: requests with the same unit "
        "always get the same arm of an experiment.",
    }
    return {
        "model": parameter("model", "path", {"enum": [model.name]}, required=True),
        "variant": parameter("variant", "path", {"enum": list(variants)}, required=True),
        JSON_LENGTH: parameter(JSON_LENGTH, "header", length),
        "Content-Encoding": parameter("Content-Encoding", "header", coding),
        UNIT_HEADER: parameter(UNIT_HEADER, "header", unit),
        **{
            name: parameter(name, "header", schema)
            for name, schema in slo_headers(variants).items()
        },
    }
