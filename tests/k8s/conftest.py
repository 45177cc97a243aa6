"""What `kubectl kustomize k8s/base` makes of the manifests, for all tests here."""

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
    warnings.simplefilter("ignore", DeprecationWarning)  # Ray's own, once, as it is imported
    import ray.serve  # noqa: F401

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Rendered:
    """The manifests, and what is asked of them again and again."""

    manifests: tuple[Manifest, ...]

    def one(self, kind: str, name: str = "") -> Manifest:
        """Return the manifest of this kind, by name where there are several."""
        (found,) = (m for m in self.of(kind) if not name or m["metadata"]["name"] == name)
        return found

    def of(self, kind: str) -> list[Manifest]:
        """Return all manifests of this kind."""
        return [m for m in self.manifests if m["kind"] == kind]

    @property
    def cluster(self) -> Manifest:
        """The Ray cluster that the RayService describes."""
        cluster: Manifest = self.one("RayService")["spec"]["rayClusterConfig"]
        return cluster

    @property
    def serve(self) -> dict[str, Any]:
        """The Serve config."""
        config: dict[str, Any] = yaml.safe_load(self.one("RayService")["spec"]["serveConfigV2"])
        return config

    @property
    def pods(self) -> dict[str, Manifest]:
        """The pod templates by their component label: head, worker, catalog."""
        (workers,) = self.cluster["workerGroupSpecs"]
        templates = [
            self.cluster["headGroupSpec"]["template"],
            workers["template"],
            self.one("Job")["spec"]["template"],
        ]
        return {t["metadata"]["labels"]["app.kubernetes.io/component"]: t for t in templates}

    def containers(self, pod: str) -> list[Manifest]:
        """Return a pod's containers, those that run first included."""
        spec = self.pods[pod]["spec"]
        return [*spec.get("initContainers", []), *spec["containers"]]


@pytest.fixture(scope="session")
def rendered() -> Rendered:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl, which renders the manifests, is not installed")
    done = subprocess.run(
        [kubectl, "kustomize", str(ROOT / "k8s" / "base")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return Rendered(tuple(yaml.safe_load_all(done.stdout)))
