"""The REST and gRPC clients of kserve, which run in a separate environment."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conformance.cases import (
    MODEL,
    REJECTIONS,
    SLO_REQUESTS,
    VARIANTS,
    Rejection,
    SloRequest,
)
from tests.service import Pixels, RunningService, images

pytestmark = pytest.mark.cluster

both = pytest.mark.parametrize("client", ["rest", "grpc"])

ROOT = Path(__file__).parents[2]
FETCHED = ROOT / ".clients" / "kserve"
SCRIPT = Path(__file__).parent / "clients" / "call_kserve.py"

Call = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def call(
    running_service: RunningService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Call]:
    """Return a function that makes a client call; `call_kserve.py` documents the format."""
    if not (FETCHED / ".fetched").exists():
        pytest.skip("kserve is not fetched: make clients")
    log = tmp_path_factory.mktemp("kserve") / "log"
    command: list[str | Path] = [
        FETCHED / "bin" / "python",
        SCRIPT,
        running_service.url,
        f"127.0.0.1:{running_service.grpc_port}",
    ]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        stdin, stdout = child.stdin, child.stdout

        def send(arguments: dict[str, Any]) -> dict[str, Any]:
            print(json.dumps(arguments), file=stdin, flush=True)
            line = stdout.readline()
            assert line, log.read_text()
            outcome: dict[str, Any] = json.loads(line)
            assert "raised" not in outcome, outcome["raised"]
            return outcome

        yield send
        stdin.close()


def infer(client: str, pixels: Pixels, **options: Any) -> dict[str, Any]:
    """Return the arguments of an inference call."""
    return {
        "client": client,
        "method": "infer",
        "model": MODEL,
        "version": None,
        "id": None,
        "input": "input",
        "output": "logits",
        "shape": list(pixels.shape),
        "datatype": "FP32",
        "dtype": str(pixels.dtype),
        "data": pixels.reshape(-1).tolist(),
        "is_binary_in": True,
        "is_binary_out": True,
        "parameters": {},
        "headers": {},
        **options,
    }


def logits_of(response: dict[str, Any]) -> Pixels:
    return np.array(response["logits"], np.float32).reshape(response["shape"])


@both
@pytest.mark.parametrize(
    ("method", "names"),
    [("is_server_live", []), ("is_server_ready", []), ("is_model_ready", [MODEL])],
)
def test_the_server_and_the_model_are_ready(
    call: Call, client: str, method: str, names: list[str]
) -> None:
    assert call({"client": client, "method": method, "names": names}) == {"returned": True}


@both
@pytest.mark.parametrize("is_binary_in", [True, False])
@pytest.mark.parametrize("is_binary_out", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_tensors_can_be_sent_and_returned_in_both_formats(
    service: RunningService,
    call: Call,
    client: str,
    is_binary_in: bool,
    is_binary_out: bool,
    variant: str,
) -> None:
    pixels = images(20)
    arguments = infer(
        client,
        pixels,
        id="seven",
        parameters={"variant": variant},
        is_binary_in=is_binary_in,
        is_binary_out=is_binary_out,
    )
    response = call(arguments)["returned"]
    assert response["id"] == "seven"
    assert response["parameters"]["variant"] == variant
    # The REST client drops the version of a response.
    assert response["version"] == (variant if client == "grpc" else None)
    service.check(variant, pixels, logits_of(response))


@pytest.mark.parametrize(
    ("client", "slo"),
    [
        pytest.param(client, slo, id=f"{client}, {name}")
        for client in ("rest", "grpc")
        for name, slo in SLO_REQUESTS.items()
        # The gRPC client sends only strings, booleans and integers.
        if client == "rest" or not slo.has_fraction
    ],
)
def test_the_slo_of_a_request_is_applied(
    service: RunningService, call: Call, client: str, slo: SloRequest
) -> None:
    parameters = {**slo.parameters, **slo.options}
    pixels = images(2)
    arguments = infer(client, pixels, parameters=parameters, headers=dict(slo.headers))
    response = call(arguments)["returned"]
    variant = response["parameters"]["variant"]
    assert response["parameters"].items() >= slo.expected.items()
    service.check(variant, pixels, logits_of(response))


@both
@pytest.mark.parametrize("rejection", REJECTIONS.values(), ids=REJECTIONS)
def test_rejected_requests_get_an_error(call: Call, client: str, rejection: Rejection) -> None:
    options = dict(rejection.options)
    version = options.pop("model_version", None)
    parameters = options.pop("parameters", {}) | options
    if client == "rest" and version is not None:
        parameters["variant"] = version  # the REST client cannot set a version
    dtype = {"FP32": np.float32, "FP64": np.float64}[rejection.datatype]
    arguments = infer(
        client,
        np.zeros(rejection.shape, dtype),
        model=rejection.model,
        version=version,
        datatype=rejection.datatype,
        output=rejection.output,
        parameters=parameters,
    )
    error = call(arguments)
    assert error["status"] == (rejection.http if client == "rest" else rejection.grpc)
    assert rejection.message in error["message"]
