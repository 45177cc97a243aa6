"""Fixtures: the manifests as `kubectl kustomize k8s/base` and `k8s/gpu` render them."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.k8s.dockerfile import ROOT

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Ray warns on its first import
    import ray.serve  # noqa: F401

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Rendered:
    """The rendered manifests, with access to the parts that tests need."""

    manifests: tuple[Manifest, ...]

    def get(self, kind: str, name: str = "") -> Manifest:
        """Return the only manifest of a kind, or the manifest with this name."""
        (manifest,) = (
            m for m in self.all_of_kind(kind) if not name or m["metadata"]["name"] == name
        )
        return manifest

    def all_of_kind(self, kind: str) -> list[Manifest]:
        """Return all manifests of a kind."""
        return [m for m in self.manifests if m["kind"] == kind]

    @property
    def cluster(self) -> Manifest:
        """The Ray cluster that the RayService describes."""
        cluster: Manifest = self.get("RayService")["spec"]["rayClusterConfig"]
        return cluster

    @property
    def serve(self) -> dict[str, Any]:
        """The Serve config."""
        config: dict[str, Any] = yaml.safe_load(self.get("RayService")["spec"]["serveConfigV2"])
        return config

    @property
    def pods(self) -> dict[str, Manifest]:
        """The pod templates by their component label: head, worker, catalog."""
        (workers,) = self.cluster["workerGroupSpecs"]
        templates = [
            self.cluster["headGroupSpec"]["template"],
            workers["template"],
            self.get("Job")["spec"]["template"],
        ]
        return {t["metadata"]["labels"]["app.kubernetes.io/component"]: t for t in templates}

    def containers(self, pod: str) -> list[Manifest]:
        """Return the containers of a pod, including its init containers."""
        spec = self.pods[pod]["spec"]
        return [*spec.get("initContainers", []), *spec["containers"]]


@pytest.fixture(scope="session")
def rendered() -> Rendered:
    return render("base")


@pytest.fixture(scope="session")
def rendered_for_gpus() -> Rendered:
    return render("gpu")


def render(folder: str) -> Rendered:
    """Render a folder of `k8s/`."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed; it renders the manifests")
    done = subprocess.run(
        [kubectl, "kustomize", str(ROOT / "k8s" / folder)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return Rendered(tuple(yaml.safe_load_all(done.stdout)))
