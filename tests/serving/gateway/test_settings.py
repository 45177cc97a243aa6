from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from serving.experiment.assignment import Arm, Experiment
from serving.gateway.settings import Grpc, Hosts, Http, Limits, Settings, load_settings
from serving.routing.slo import Slo
from variants.catalog.device import Device


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, without a named config file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARETOSERVE_CONFIG", raising=False)
    return tmp_path


def write(settings: Any, path: str = "paretoserve.yaml") -> None:
    Path(path).write_text(yaml.safe_dump(settings))


def test_every_setting_has_a_default() -> None:
    settings = load_settings()
    assert settings.catalog == Path("catalog")
    assert settings.http == Http(host="127.0.0.1", port=8000)
    assert settings.grpc == Grpc(host="127.0.0.1", port=9000)
    assert settings.hosts == Hosts(replicas=1, cpus=1, slots=1, cores=None, bind="127.0.0.1")
    assert settings.limits == Limits(
        batch_size=64, queue_length=2000, body_bytes=2**23, header_bytes=2**16, stream_requests=64
    )
    assert settings.slo == Slo()
    assert settings.experiment is None


def test_the_environment_precedes_the_file_and_the_file_the_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write({"http": {"host": "0.0.0.0", "port": 8001}, "drain_s": 3})
    monkeypatch.setenv("PARETOSERVE_HTTP__PORT", "8002")
    settings = load_settings()
    assert settings.http == Http(host="0.0.0.0", port=8002)
    assert settings.drain_s == 3
    assert settings.hosts == Hosts()


def test_http_and_grpc_are_set_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    write({"grpc": {"host": "0.0.0.0"}})
    monkeypatch.setenv("PARETOSERVE_GRPC__PORT", "0")
    settings = load_settings()
    assert settings.grpc == Grpc(host="0.0.0.0", port=0)
    assert settings.http == Http()


def test_an_argument_precedes_all_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    write({"drain_s": 1})
    monkeypatch.setenv("PARETOSERVE_DRAIN_S", "2")
    assert load_settings().drain_s == 2
    assert load_settings(drain_s=3).drain_s == 3


def test_an_argument_does_not_affect_the_rest_of_its_section(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PARETOSERVE_HTTP__HOST", "0.0.0.0")
    settings = load_settings(http={"port": 8001}, grpc={})
    assert (settings.http.host, settings.http.port) == ("0.0.0.0", 8001)
    assert settings.grpc.port == 9000


def test_all_requests_together_may_occupy_as_much_as_one_may() -> None:
    with pytest.raises(ValueError, match="total_body_bytes is 9, so that no request of body_bytes"):
        load_settings(limits={"body_bytes": 10, "total_body_bytes": 9})
    assert load_settings(limits={"body_bytes": 10, "total_body_bytes": 10}).limits.body_bytes == 10


def test_http_and_grpc_cannot_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="wrong: HTTP and gRPC cannot both listen"):
        load_settings(http={"port": 9000})
    monkeypatch.setenv("PARETOSERVE_GRPC__PORT", "8000")
    with pytest.raises(ValueError, match="port 8000; give another with --port or --grpc-port"):
        load_settings()
    assert load_settings(http={"port": 0}, grpc={"port": 0}).http.port == 0


def test_an_unknown_policy_is_refused() -> None:
    write({"policy": "luck"})
    with pytest.raises(ValueError, match=r"policy: .*unknown policy 'luck'; known: pareto"):
        load_settings()


def test_the_accuracy_margin_is_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().accuracy_margin == 0
    monkeypatch.setenv("PARETOSERVE_ACCURACY_MARGIN", "0.005")
    assert load_settings().accuracy_margin == 0.005
    for wrong in ("-0.1", "1.5", "nan"):
        monkeypatch.setenv("PARETOSERVE_ACCURACY_MARGIN", wrong)
        with pytest.raises(
            ValueError, match=r"accuracy_margin: must be (at least|at most|a finite)"
        ):
            load_settings()


def test_a_variable_names_the_config_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write({"drain_s": 1})
    write({"drain_s": 2}, "other.yaml")
    monkeypatch.setenv("PARETOSERVE_CONFIG", "other.yaml")
    assert load_settings().drain_s == 2


def test_a_missing_named_config_file_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETOSERVE_CONFIG", "missing.yaml")
    with pytest.raises(ValueError, match=r"names missing\.yaml, which is not a file"):
        load_settings()


def test_an_empty_config_file_means_the_defaults() -> None:
    Path("paretoserve.yaml").write_text("# nothing yet\n")
    assert load_settings() == Settings()


def test_structured_settings_can_be_set_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETOSERVE_VARIANTS", '["dense", "int8"]')
    monkeypatch.setenv("PARETOSERVE_DEFAULT_SLO", '{"slo_latency_ms": 20}')
    settings = load_settings()
    assert settings.variants == ("dense", "int8")
    assert settings.slo == Slo(latency_s=0.020)


def test_an_experiment_is_read_with_its_arms() -> None:
    arms = [
        {"name": "a", "target": "router", "weight": 4},
        {"name": "b", "target": "int8", "weight": 1},
    ]
    write({"experiment": {"name": "try-int8", "arms": arms}})
    assert load_settings().experiment == Experiment(
        name="try-int8",
        arms=(Arm(name="a", target="router", weight=4), Arm(name="b", target="int8", weight=1)),
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"polcy": "pareto"}, "the settings are wrong: polcy: ", id="an unknown key"),
        pytest.param({"http": {"prot": 1}}, "http.prot: ", id="an unknown key of a group"),
        pytest.param(
            {"http": {"port": 65536}}, "http.port: .* at most 65535", id="a port out of range"
        ),
        pytest.param(
            {"grpc": {"port": 65536}}, "grpc.port: .* at most 65535", id="a gRPC port out of range"
        ),
        pytest.param({"http": 8000}, "http: ", id="a value in place of a group"),
        pytest.param({"hosts": {"replicas": 0}}, "hosts.replicas: ", id="no replicas"),
        pytest.param({"hosts": {"cores": 0}}, "hosts.cores: ", id="no cores"),
        pytest.param(
            {"hosts": {"in_gateway": "int8"}},
            r"hosts.in_gateway: 'int8'; give `all`, or a list of variants such as \[int8\]$",
            id="a variant in place of a list",
        ),
        pytest.param(
            {"hosts": {"in_gateway": ["int8"], "device": "cuda"}},
            "hosts: gateways compute on the CPU, not on cuda; leave in_gateway empty, or set",
            id="a GPU in the gateway",
        ),
        pytest.param(
            {"hosts": {"in_gateway": "all", "replicas": 2}},
            "hosts: replicas is 2, but all variants are computed in the gateway",
            id="replicas in the gateway",
        ),
        pytest.param({"limits": {"batch_size": 0}}, "limits.batch_size: ", id="empty batches"),
        pytest.param(
            {"limits": {"header_bytes": 1023}}, "limits.header_bytes: ", id="too few header bytes"
        ),
        pytest.param(
            {"limits": {"stream_requests": 0}},
            "limits.stream_requests: ",
            id="no requests of a stream",
        ),
        pytest.param({"drain_s": -1}, "drain_s: ", id="a negative time"),
        pytest.param(
            {"http": {"port": "x"}, "drain_s": -1}, "port.*; drain_s", id="every wrong setting"
        ),
        pytest.param(
            {"default_slo": {"latency": 20}},
            "default_slo: .*unknown latency; known: max_accuracy_drop, .*slo_latency_ms, .*variant",
            id="an unknown parameter",
        ),
        pytest.param(
            {"default_slo": {"slo_latency_ms": -1}},
            "default_slo: .*'slo_latency_ms' must be above 0 milliseconds, got -1",
            id="a parameter out of range",
        ),
        pytest.param({"experiment": {"name": "e", "arms": []}}, "experiment.arms: ", id="no arms"),
        pytest.param(
            ["policy"], "paretoserve.yaml must be a mapping from names to settings", id="a list"
        ),
        pytest.param(
            "pareto", "paretoserve.yaml must be a mapping from names to settings", id="a word"
        ),
    ],
)
def test_a_wrong_setting_is_named(settings: object, message: str) -> None:
    write(settings)
    with pytest.raises(ValueError, match=message):
        load_settings()


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("PARETOSERVE_HTTP__PORT", "http", "http.port: "),
        ("PARETOSERVE_HTTP__PROT", "1", "http.prot: "),
        ("PARETOSERVE_GRPC__PORT", "-1", "grpc.port: "),
        ("PARETOSERVE_VARIANTS", "int8", "variants"),
        ("PARETOSERVE_HOSTS__DEVICE", "gpu", "hosts.device: .*'cpu', 'cuda' or 'tensorrt'"),
        ("PARETOSERVE_HOSTS__GPUS", "0", "hosts.gpus: "),
        ("PARETOSERVE_HOSTS__GPUS", "1.5", "hosts.gpus: .*a whole number, or a share of one"),
        ("PARETOSERVE_DEFAULT_SLO__PRIORITY", '"1"', "'priority' must be a whole number"),
    ],
)
def test_a_wrong_variable_is_named(
    variable: str, text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ValueError, match=message):
        load_settings()


def test_a_config_file_that_is_not_yaml_is_named() -> None:
    Path("paretoserve.yaml").write_text("http: [unclosed")
    with pytest.raises(ValueError, match=r"paretoserve\.yaml: line 1: not valid YAML"):
        load_settings()


@pytest.mark.parametrize(("device", "expected"), [("cpu", 0), ("cuda", 0.25), ("tensorrt", 0.25)])
def test_gpus_are_reserved_on_a_gpu_only(device: Device, expected: float) -> None:
    assert Hosts(device=device, gpus=0.25).reserved_gpus == expected


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().policy = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "value", "are_there"),
    [
        ("all", "all", (True, True)),
        ('["int8"]', ("int8",), (True, False)),
        ("[]", (), (False,) * 2),
    ],
)
def test_variants_are_computed_in_the_gateway_by_name_or_all(
    monkeypatch: pytest.MonkeyPatch, text: str, value: object, are_there: tuple[bool, bool]
) -> None:
    monkeypatch.setenv("PARETOSERVE_HOSTS__IN_GATEWAY", text)
    hosts = load_settings().hosts
    assert hosts.in_gateway == value
    assert (hosts.is_in_gateway("int8"), hosts.is_in_gateway("a")) == are_there


@pytest.mark.parametrize(
    ("hosts", "batches", "cpus"),
    [
        ({}, math.inf, 1),
        ({"cores": 3}, 3, 1),
        ({"in_gateway": ["a", "b"], "cpus": 2}, math.inf, 5),
        ({"in_gateway": "all"}, 1, 2),
        ({"in_gateway": "all", "cores": 3, "cpus": 2}, 3, 7),
    ],
)
def test_a_gateway_reserves_the_cpus_of_what_it_computes(
    hosts: dict[str, Any], batches: float, cpus: int
) -> None:
    settings = Hosts.model_validate(hosts)
    assert (settings.parallel_batches, settings.gateway_cpus) == (batches, cpus)
