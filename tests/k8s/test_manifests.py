"""Every manifest matches its schema, the other manifests and the image."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import PurePosixPath

import pytest
import yaml

from paretoserve.main import cli
from tests.k8s import schema
from tests.k8s.conftest import Manifest, Rendered
from tests.k8s.dockerfile import ROOT, environment

BASE = ROOT / "k8s" / "base"
PODS = ("head", "worker", "catalog")
CLUSTER = {"head", "worker"}
TEMPLATE = ("spec", "rayClusterConfig", "headGroupSpec", "template")
CLAIM = ("spec", "volumes", "items", "ephemeral", "volumeClaimTemplate", "spec")
POLICY = ("spec", "rayClusterConfig", "networkPolicy", "head")


def selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(e["operator"] == "In" for e in expressions)
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items()) and all(
        labels.get(e["key"]) in e["values"] for e in expressions
    )


def selected(rendered: Rendered, selector: Manifest) -> set[str]:
    """Return the pods that a selector matches."""
    return {
        name for name, pod in rendered.pods.items() if selects(selector, pod["metadata"]["labels"])
    }


def ports(rendered: Rendered, pod: str) -> dict[str, int]:
    (container,) = rendered.pods[pod]["spec"]["containers"]
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def variables(container: Manifest) -> dict[str, str]:
    """Return the environment of a container: the image's variables and its own."""
    own = {v["name"]: v["value"] for v in container.get("env", []) if "value" in v}
    return environment() | own


def test_the_ray_service_matches_its_schema(rendered: Rendered) -> None:
    assert schema.errors(rendered.get("RayService")) == []


def test_the_schema_rejects_a_misspelled_key_at_any_depth(rendered: Rendered) -> None:
    service = yaml.safe_load(yaml.safe_dump(rendered.get("RayService")))
    service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["hostnetwork"] = True
    assert len(schema.errors(service)) == 1


def test_the_other_manifests_match_the_schemas_of_their_parts(rendered: Rendered) -> None:
    for service in rendered.all_of_kind("Service"):
        assert schema.errors(service, "spec", "serveService") == []
    assert schema.errors(rendered.get("Job")["spec"]["template"], *TEMPLATE) == []
    claim = rendered.get("PersistentVolumeClaim")["spec"]
    assert schema.errors(claim, *TEMPLATE, *CLAIM) == []
    for policy in rendered.all_of_kind("NetworkPolicy"):
        for direction in ("ingress", "egress"):
            for rule in policy["spec"].get(direction, []):
                assert schema.errors(rule, *POLICY, f"{direction}Rules", "items") == []


def test_versions_agree(rendered: Rendered) -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert rendered.cluster["rayVersion"] == pinned[1] == version("ray")


def test_every_container_runs_the_image_of_this_version(rendered: Rendered) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    images = {c["image"] for pod in PODS for c in rendered.containers(pod)}
    assert images == {f"{project['name']}:{project['version']}"}


@pytest.mark.parametrize("pod", PODS)
def test_every_pod_has_minimal_privileges_and_equal_requests_and_limits(
    rendered: Rendered, pod: str
) -> None:
    spec = rendered.pods[pod]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 1000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in rendered.containers(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        assert resources["limits"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("pod", PODS)
def test_every_mount_has_a_volume_and_every_volume_a_source(rendered: Rendered, pod: str) -> None:
    volumes = {volume["name"]: volume for volume in rendered.pods[pod]["spec"]["volumes"]}
    mounted = {m["name"] for c in rendered.containers(pod) for m in c["volumeMounts"]}
    assert mounted == volumes.keys()
    for volume in volumes.values():
        if "configMap" in volume:
            rendered.get("ConfigMap", volume["configMap"]["name"])
        if claim := volume.get("persistentVolumeClaim"):
            rendered.get("PersistentVolumeClaim", claim["claimName"])


@pytest.mark.parametrize("pod", PODS)
def test_temporary_folders_are_writable_and_so_is_the_catalog_where_it_is_written(
    rendered: Rendered, pod: str
) -> None:
    (container,) = rendered.pods[pod]["spec"]["containers"]
    mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
    for folder in ("/tmp", variables(container)["HOME"]):
        assert not mounts[folder].get("readOnly")
    for each in rendered.containers(pod):
        catalogs = [m for m in each["volumeMounts"] if m["name"] == "catalog"]
        assert len(catalogs) == (pod != "head")
        for catalog in catalogs:
            assert catalog["mountPath"] == variables(each)["PARETOSERVE_CATALOG"]
            assert catalog.get("readOnly", False) is (each["name"] == "wait-for-catalog")


@pytest.mark.parametrize("pod", sorted(CLUSTER))
def test_the_config_is_mounted_at_the_configured_path(rendered: Rendered, pod: str) -> None:
    (container,) = rendered.pods[pod]["spec"]["containers"]
    config = PurePosixPath(variables(container)["PARETOSERVE_CONFIG"])
    (mount,) = (m for m in container["volumeMounts"] if m["name"] == "config")
    assert mount["mountPath"] == str(config.parent)
    assert rendered.get("ConfigMap")["data"].keys() == {config.name}


def test_head_and_workers_have_the_same_environment_with_the_ray_variables_of_the_image(
    rendered: Rendered,
) -> None:
    head, worker = (rendered.pods[p]["spec"]["containers"][0]["env"] for p in ("head", "worker"))
    assert head == worker
    of_ray = {v["name"]: v["value"] for v in head if v["name"].startswith("RAY_")}
    assert of_ray == {k: v for k, v in environment().items() if k.startswith("RAY_")}


@pytest.mark.parametrize(
    ("kind", "name", "pods"),
    [
        pytest.param("PodDisruptionBudget", "paretoserve-worker", {"worker"}, id="disruption"),
        pytest.param("PodMonitor", "paretoserve-gateway", {"worker"}, id="gateway's metrics"),
        pytest.param("PodMonitor", "paretoserve-ray", CLUSTER, id="ray's metrics"),
        pytest.param("NetworkPolicy", "paretoserve-deny", {*PODS}, id="deny"),
        pytest.param("NetworkPolicy", "paretoserve-ray", CLUSTER, id="ray"),
        pytest.param("NetworkPolicy", "paretoserve-head", {"head"}, id="operator"),
        pytest.param("NetworkPolicy", "paretoserve-clients", {"worker"}, id="clients"),
    ],
)
def test_selectors_match_the_intended_pods(
    rendered: Rendered, kind: str, name: str, pods: set[str]
) -> None:
    spec = rendered.get(kind, name)["spec"]
    assert selected(rendered, spec.get("selector") or spec["podSelector"]) == pods


def test_the_pods_of_a_cluster_reach_each_other_on_all_ports(rendered: Rendered) -> None:
    spec = rendered.get("NetworkPolicy", "paretoserve-ray")["spec"]
    for direction, end in (("ingress", "from"), ("egress", "to")):
        rules = [rule for rule in spec[direction] if "ports" not in rule]
        peers = [p["podSelector"] for rule in rules for p in rule[end] if "podSelector" in p]
        assert [selected(rendered, peer) for peer in peers] == [CLUSTER]


def test_every_named_port_exists(rendered: Rendered) -> None:
    references: list[tuple[Manifest, str]] = []
    for service in (each["spec"] for each in rendered.all_of_kind("Service")):
        targets = [port["targetPort"] for port in service["ports"]]
        references += [({"matchLabels": service["selector"]}, target) for target in targets]
    for monitor in rendered.all_of_kind("PodMonitor"):
        spec = monitor["spec"]
        references += [(spec["selector"], e["port"]) for e in spec["podMetricsEndpoints"]]
    for policy in rendered.all_of_kind("NetworkPolicy"):
        rules = policy["spec"].get("ingress", [])
        named = [p["port"] for rule in rules for p in rule.get("ports", [])]
        references += [(policy["spec"]["podSelector"], port) for port in named]
    assert len(references) == 9
    for selector, port in references:
        for pod in selected(rendered, selector):
            assert port in ports(rendered, pod)


def test_services_select_the_pods_with_gateways(rendered: Rendered) -> None:
    for service in rendered.all_of_kind("Service"):
        assert selected(rendered, {"matchLabels": service["spec"]["selector"]}) == {"worker"}


def test_the_network_policy_allows_the_target_ports_of_every_service(rendered: Rendered) -> None:
    (rule,) = rendered.get("NetworkPolicy", "paretoserve-clients")["spec"]["ingress"]
    allowed = {port["port"] for port in rule["ports"]}
    targets = {p["targetPort"] for s in rendered.all_of_kind("Service") for p in s["spec"]["ports"]}
    assert targets == allowed == {"serve", "serve-grpc"}


def test_service_ports_equal_pod_ports(rendered: Rendered) -> None:
    """A headless Service has no address of its own, so its ports are not translated."""
    open_ports = ports(rendered, "worker")
    for service in rendered.all_of_kind("Service"):
        for port in service["spec"]["ports"]:
            assert port["port"] == open_ports[port["targetPort"]]


def test_a_headless_service_resolves_to_single_pods_for_grpc_clients(rendered: Rendered) -> None:
    service = rendered.get("Service", "paretoserve-pods")["spec"]
    assert service["clusterIP"] == "None"
    assert [port["targetPort"] for port in service["ports"]] == ["serve-grpc"]


def test_the_head_declares_the_ports_for_the_service_of_kuberay(rendered: Rendered) -> None:
    head, worker = (
        {name: port for name, port in ports(rendered, pod).items() if name.startswith("serve")}
        for pod in ("head", "worker")
    )
    assert head == worker


def test_the_addresses_in_the_docs_exist(rendered: Rendered) -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    documented = {
        (name, int(port)) for name, port in re.findall(r"\b(paretoserve[\w-]*):(\d{4})\b", text)
    }
    assert documented == {
        (service["metadata"]["name"], port["port"])
        for service in rendered.all_of_kind("Service")
        for port in service["spec"]["ports"]
    }


def test_the_name_of_the_config_map_has_a_content_hash(rendered: Rendered) -> None:
    assert re.fullmatch(r"paretoserve-[a-z0-9]{10}", rendered.get("ConfigMap")["metadata"]["name"])


@pytest.mark.parametrize("pod", PODS)
def test_shell_scripts_parse(rendered: Rendered, pod: str) -> None:
    for container in rendered.containers(pod):
        hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
        for script in (*container.get("args", []), *hook[2:]):
            done = subprocess.run(["bash", "-n", "-c", script], capture_output=True, check=False)
            assert done.returncode == 0, done.stderr


def test_the_catalog_job_uses_existing_modules_commands_and_options(rendered: Rendered) -> None:
    (container,) = rendered.pods["catalog"]["spec"]["containers"]
    (script,) = container["args"]
    (module,) = re.findall(r"python -m (\S+)", script)
    assert find_spec(module)
    ((verb, project),) = re.findall(r"paretoserve (\S+) (\S+)", script)
    (option,) = re.findall(r"(--\S+)", script)
    assert option in {name for parameter in cli.commands[verb].params for name in parameter.opts}
    assert (ROOT / project).is_file()


def test_kustomization_lists_every_file() -> None:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    generated = [f for g in listed["configMapGenerator"] for f in g["files"]]
    named = [*listed["resources"], *generated, *listed["configurations"], "kustomization.yaml"]
    assert sorted(named) == sorted(path.name for path in BASE.iterdir())
