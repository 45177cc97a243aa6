"""kserve's clients, REST and gRPC, in an environment of their own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conformance.cases import MODEL, REFUSALS, VARIANTS, WISHES, Refusal, Wish
from tests.service import Pixels, RunningService, images

pytestmark = pytest.mark.cluster

both = pytest.mark.parametrize("client", ["rest", "grpc"])

ROOT = Path(__file__).parents[2]
FETCHED = ROOT / ".clients" / "kserve"
SCRIPT = Path(__file__).parent / "clients" / "ask_kserve.py"

Ask = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def ask(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Make a call of the clients; return its outcome. `ask_kserve.py` says what both look like."""
    if not (FETCHED / ".fetched").exists():
        pytest.skip("kserve is not fetched: make clients")
    log = tmp_path_factory.mktemp("kserve") / "log"
    command: list[str | Path] = [
        FETCHED / "bin" / "python",
        SCRIPT,
        service.url,
        f"127.0.0.1:{service.grpc_port}",
    ]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        into, out = child.stdin, child.stdout

        def call(what: dict[str, Any]) -> dict[str, Any]:
            print(json.dumps(what), file=into, flush=True)
            line = out.readline()
            assert line, log.read_text()
            outcome: dict[str, Any] = json.loads(line)
            assert "raised" not in outcome, outcome["raised"]
            return outcome

        yield call
        into.close()


def infer(client: str, pixels: Pixels, **options: Any) -> dict[str, Any]:
    """A call to infer, as `ask` takes it."""
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


def logits_of(answer: dict[str, Any]) -> Pixels:
    return np.array(answer["logits"], np.float32).reshape(answer["shape"])


@both
@pytest.mark.parametrize(
    ("method", "names"),
    [("is_server_live", []), ("is_server_ready", []), ("is_model_ready", [MODEL])],
)
def test_the_server_and_the_model_say_that_they_are_ready(
    ask: Ask, client: str, method: str, names: list[str]
) -> None:
    assert ask({"client": client, "method": method, "names": names}) == {"returned": True}


@both
@pytest.mark.parametrize("is_binary_in", [True, False])
@pytest.mark.parametrize("is_binary_out", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_tensors_travel_as_the_client_likes(
    service: RunningService,
    ask: Ask,
    client: str,
    is_binary_in: bool,
    is_binary_out: bool,
    variant: str,
) -> None:
    pixels = images(20)
    call = infer(
        client,
        pixels,
        id="seven",
        parameters={"variant": variant},
        is_binary_in=is_binary_in,
        is_binary_out=is_binary_out,
    )
    answer = ask(call)["returned"]
    assert answer["id"] == "seven"
    assert answer["parameters"]["variant"] == variant
    # Of an answer by REST, the client keeps no version.
    assert answer["version"] == (variant if client == "grpc" else None)
    service.check(variant, pixels, logits_of(answer))


@pytest.mark.parametrize(
    ("client", "wish"),
    [
        pytest.param(client, wish, id=f"{client}, {name}")
        for client in ("rest", "grpc")
        for name, wish in WISHES.items()
        # Over gRPC the client sends text, booleans and whole numbers only.
        if client == "rest" or not wish.has_fraction
    ],
)
def test_what_a_request_asks_for_is_kept(
    service: RunningService, ask: Ask, client: str, wish: Wish
) -> None:
    parameters = {**wish.parameters, **wish.options}
    pixels = images(2)
    call = infer(client, pixels, parameters=parameters, headers=dict(wish.headers))
    answer = ask(call)["returned"]
    variant = answer["parameters"]["variant"]
    assert answer["parameters"].items() >= wish.answer.items()
    service.check(variant, pixels, logits_of(answer))


@both
@pytest.mark.parametrize(
    "refusal", [pytest.param(refusal, id=name) for name, refusal in REFUSALS.items()]
)
def test_what_cannot_be_answered_is_refused(ask: Ask, client: str, refusal: Refusal) -> None:
    options = dict(refusal.options)
    version = options.pop("model_version", None)
    parameters = options.pop("parameters", {}) | options
    if client == "rest" and version is not None:
        parameters["variant"] = version  # this client has no URL with a version
    dtype = {"FP32": np.float32, "FP64": np.float64}[refusal.datatype]
    call = infer(
        client,
        np.zeros(refusal.shape, dtype),
        model=refusal.model,
        version=version,
        datatype=refusal.datatype,
        output=refusal.output,
        parameters=parameters,
    )
    refused = ask(call)
    assert refused["status"] == (refusal.http if client == "rest" else refusal.grpc)
    assert refusal.message in refused["message"]
