"""Schemas for manifests: that of RayService, and the Kubernetes schemas that it contains."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema
import pytest
import yaml

from tests.k8s.dockerfile import ROOT

CRD = ROOT.parent / "shared" / "crds" / "ray.io_rayservices.yaml"


def errors(data: Mapping[str, Any], *path: str) -> list[str]:
    """Return the errors of `data` by the schema at `path` in the CRD; unknown keys are errors.

    Skips the test if the CRD is not beside the repository.
    """
    if not CRD.is_file():
        pytest.skip(f"no CRD at {CRD.relative_to(ROOT.parent)} beside the repository")
    schema = _rayservice()
    for step in path:
        schema = schema["items"] if step == "items" else schema["properties"][step]
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in jsonschema.Draft7Validator(schema).iter_errors(data)
    ]


@cache
def _rayservice() -> dict[str, Any]:
    crd = yaml.load(CRD.read_bytes(), Loader=yaml.CSafeLoader)
    version = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    _close(schema)
    return schema


def _close(schema: dict[str, Any]) -> None:
    """Forbid unknown keys at every depth, because the API server drops them silently."""
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    properties = schema.get("properties", {})
    if properties and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    children = [*properties.values(), schema.get("items"), schema.get("additionalProperties")]
    for child in children:
        if isinstance(child, dict):
            _close(child)
