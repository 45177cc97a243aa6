"""`k8s/gpu` is `k8s/base` with a GPU where something computes, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from serving.gateway.settings import Hosts
from tests.k8s import schema
from tests.k8s.conftest import Rendered
from tests.k8s.dockerfile import ROOT
from variants.catalog.recipe import Project

GPU = "nvidia.com/gpu"
DEVICE = {"name": "PARETOSERVE_HOSTS__DEVICE", "value": "cuda"}


def test_the_ray_service_matches_its_schema(rendered_for_gpus: Rendered) -> None:
    assert schema.errors(rendered_for_gpus.get("RayService")) == []


@pytest.mark.parametrize(("pod", "gpus"), [("head", None), ("worker", "1"), ("catalog", "1")])
def test_workers_and_the_job_have_a_gpu_and_all_know_the_device(
    rendered_for_gpus: Rendered, pod: str, gpus: str | None
) -> None:
    (container,) = rendered_for_gpus.pods[pod]["spec"]["containers"]
    assert DEVICE in container["env"]
    assert container["resources"]["limits"].get(GPU) == gpus
    assert container["resources"]["requests"] == container["resources"]["limits"]


def test_nothing_else_differs_from_the_base(
    rendered: Rendered, rendered_for_gpus: Rendered
) -> None:
    without: Any = copy.deepcopy(rendered_for_gpus)
    for pod in without.pods.values():
        (container,) = pod["spec"]["containers"]
        container["env"].remove(DEVICE)
        for part in container["resources"].values():
            part.pop(GPU, None)
    assert without == rendered


def test_the_gpu_of_a_worker_suffices_for_all_hosts_a_new_generation_and_a_build() -> None:
    recipes = Project.load(ROOT / "examples" / "fashion_mnist" / "recipes.yaml").recipes
    assert (len(recipes) + 2) * Hosts(device="cuda").reserved_gpus <= 1
