"""All files state the same version."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import yaml

from tests.docs.pages import ROOT


def read_yaml(path: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / path).read_text())
    return document


def test_all_files_state_one_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert read_yaml("CITATION.cff")["version"] == version
    assert read_yaml("k8s/base/kustomization.yaml")["images"][0]["newTag"] == version
    page = (ROOT / "docs/kubernetes.md").read_text()
    tags = re.findall(r"(?:/paretoserve:|newTag: )(\d+\.\d+\.\d+)", page)
    assert tags == [version] * 3
