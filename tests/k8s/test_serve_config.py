"""The Serve config, settings and environment in the manifests match the code."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from ray.serve import Application
from ray.serve.schema import (
    DeploymentSchema,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from serving.cluster.environment import ENVIRONMENT
from serving.cluster.host_deployment import host_app
from serving.cluster.names import GATEWAY, HOST
from serving.gateway.settings import CONFIG_VARIABLE, Grpc, Http, Settings, load_settings
from serving.protocol.http.application import ROUTES
from tests.k8s.conftest import Manifest, Rendered
from tests.k8s.dockerfile import ROOT, environment
from variants.catalog.recipe import Project

CONFIG = ROOT / "k8s" / "base" / "paretoserve.yaml"
NESTED: Mapping[str, type[BaseModel]] = {
    "applications": ServeApplicationSchema,
    "deployments": DeploymentSchema,
    "ray_actor_options": RayActorOptionsSchema,
}


def unknown(schema: type[BaseModel], data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys that Serve would ignore silently."""
    for key, value in data.items():
        if key not in schema.model_fields:
            yield key
        if key in NESTED:
            for part in value if isinstance(value, list) else [value]:
                yield from (f"{key}.{name}" for name in unknown(NESTED[key], part))


def readable(model: type[BaseModel], prefix: str = "PARETOSERVE_") -> Iterator[str]:
    """Yield the environment variables that the settings are read from."""
    for name, field in model.model_fields.items():
        yield prefix + name.upper()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from readable(field.annotation, f"{prefix}{name.upper()}__")


def worker(rendered: Rendered) -> Manifest:
    (container,) = rendered.pods["worker"]["spec"]["containers"]
    manifest: Manifest = container
    return manifest


@pytest.fixture
def settings(rendered: Rendered, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that the service reads in a worker pod."""
    own = {each["name"]: each["value"] for each in worker(rendered)["env"] if "value" in each}
    for name, value in (environment() | own | {CONFIG_VARIABLE: str(CONFIG)}).items():
        if name.startswith("PARETOSERVE_"):
            monkeypatch.setenv(name, value)
    return load_settings()


def build(app: Mapping[str, Any]) -> Application:
    module, _, name = app["import_path"].partition(":")
    application = getattr(importlib.import_module(module), name)(app.get("args", {}))
    assert isinstance(application, Application)
    return application


def test_the_serve_config_matches_its_schema_without_unknown_keys(rendered: Rendered) -> None:
    ServeDeploySchema.model_validate(rendered.serve)
    assert list(unknown(ServeDeploySchema, rendered.serve)) == []


def test_a_misspelled_key_of_the_serve_config_is_detected() -> None:
    app = {"name": "a", "deployments": [{"name": "D", "num_replica": 1}]}
    keys = list(unknown(ServeDeploySchema, {"proxy": "Disabled", "applications": [app]}))
    assert keys == ["proxy", "applications.deployments.num_replica"]


def test_serve_has_no_proxy_and_no_routes(rendered: Rendered) -> None:
    assert rendered.serve["proxy_location"] == "Disabled"
    assert [app["route_prefix"] for app in rendered.serve["applications"]] == [None]


def test_the_only_app_is_the_gateway(rendered: Rendered) -> None:
    (app,) = rendered.serve["applications"]
    assert app["name"] == GATEWAY
    assert "args" not in app


def test_the_app_builds_the_configured_deployment(rendered: Rendered, settings: Settings) -> None:
    (app,) = rendered.serve["applications"]
    assert [each["name"] for each in app["deployments"]] == [build(app)._bound_deployment.name]


def test_a_worker_has_cpus_for_a_gateway_hosts_a_new_generation_and_a_build(
    rendered: Rendered, settings: Settings
) -> None:
    recipes = Project.load(ROOT / "examples" / "fashion_mnist" / "recipes.yaml").recipes
    (group,) = rendered.cluster["workerGroupSpecs"]
    (app,) = rendered.serve["applications"]
    (configured,) = app["deployments"]
    assert configured["num_replicas"] == group["replicas"] == settings.hosts.replicas
    assert configured["max_replicas_per_node"] == settings.hosts.replicas_per_node == 1
    cpus = 1 + (len(recipes) + 1) * settings.hosts.cpus + settings.builder.cpus
    assert int(worker(rendered)["resources"]["limits"]["cpu"]) == cpus
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    assert rendered.cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_hosts_are_placed_as_configured(settings: Settings) -> None:
    deployment = host_app(settings, "int8", 3)._bound_deployment
    assert (deployment.name, deployment.num_replicas) == (HOST, settings.hosts.replicas)
    placement = deployment._replica_config.max_replicas_per_node
    assert placement == settings.hosts.replicas_per_node
    assert deployment.ray_actor_options
    assert deployment.ray_actor_options["num_cpus"] == settings.hosts.cpus


def test_a_host_reserves_its_share_of_a_gpu_on_a_gpu_only(settings: Settings) -> None:
    for device, expected in (("cpu", 0), ("cuda", 0.2)):
        hosts = settings.hosts.model_copy(update={"device": device, "gpus": 0.2})
        on_device = settings.model_copy(update={"hosts": hosts})
        options = host_app(on_device, "int8", 3)._bound_deployment.ray_actor_options
        assert options
        assert options.get("num_gpus", 0) == expected


def test_the_database_is_one_that_gateways_on_several_nodes_share(rendered: Rendered) -> None:
    (variable,) = [
        each for each in worker(rendered)["env"] if each["name"] == "PARETOSERVE_CONTROL__DATABASE"
    ]
    assert variable["valueFrom"] == {"secretKeyRef": {"name": "paretoserve-database", "key": "url"}}


def test_the_settings_match_the_pod(rendered: Rendered, settings: Settings) -> None:
    container = worker(rendered)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert settings.http == Http(host="0.0.0.0", port=ports["serve"])
    assert settings.grpc == Grpc(host="0.0.0.0", port=ports["serve-grpc"])
    assert settings.catalog == Path("/catalog")
    assert settings.hosts.bind == "node"


def test_the_commented_examples_in_the_config_are_valid(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = re.compile(r"^# (?=default_slo:|experiment:|project:|  )", re.MULTILINE)
    (tmp_path / "all.yaml").write_text(keys.sub("", CONFIG.read_text()))
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "all.yaml"))
    everything = load_settings()
    assert everything.slo != settings.slo
    assert everything.experiment
    assert [arm.weight for arm in everything.experiment.arms] == [80, 20]
    recipes = Project.load(ROOT / "examples" / "fashion_mnist" / "recipes.yaml").recipes
    assert {arm.target for arm in everything.experiment.arms} <= {"router", *recipes}


def test_the_config_map_contains_the_config_file(rendered: Rendered) -> None:
    (text,) = rendered.get("ConfigMap")["data"].values()
    assert yaml.safe_load(text) == yaml.safe_load(CONFIG.read_text())


@pytest.mark.parametrize("pod", ["head", "worker", "catalog"])
def test_the_settings_read_every_variable(rendered: Rendered, pod: str) -> None:
    names = {v["name"] for c in rendered.containers(pod) for v in c["env"]} | environment().keys()
    own = {name for name in names if name.startswith("PARETOSERVE_")}
    assert own
    assert own <= {CONFIG_VARIABLE, *readable(Settings)}


def test_the_worker_sets_the_ray_variables_that_the_code_needs(rendered: Rendered) -> None:
    variables = {v["name"]: v.get("value") for v in worker(rendered)["env"]}
    assert {
        name: value for name, value in variables.items() if name.startswith("RAY_")
    } == ENVIRONMENT


def test_the_probe_and_prometheus_use_existing_routes(rendered: Rendered) -> None:
    monitor = rendered.get("PodMonitor", "paretoserve-gateway")["spec"]["podMetricsEndpoints"][0]
    probe = worker(rendered)["readinessProbe"]["httpGet"]
    for endpoint in (monitor, probe):
        assert endpoint["port"] in {port["name"] for port in worker(rendered)["ports"]}
        assert any(m == "GET" and p.fullmatch(endpoint["path"]) for m, p, _ in ROUTES)


def test_a_pod_has_time_to_drain(rendered: Rendered, settings: Settings) -> None:
    command = worker(rendered)["lifecycle"]["preStop"]["exec"]["command"][-1]
    match = re.fullmatch(r"sleep (\d+); ray stop", command)
    assert match
    sleep_s, ray_stop_s = int(match[1]), 20
    assert settings.drain_s < sleep_s
    grace_s = rendered.pods["worker"]["spec"]["terminationGracePeriodSeconds"]
    assert sleep_s + ray_stop_s < grace_s
