from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import httpx
import pytest

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult
from serving.errors import STATUS, DeadlineExceeded, Overloaded, ServingError
from serving.protocol import failure
from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import INFER, assert_answers, assert_refuses, body
from tests.serving.protocol.http.malformed import MALFORMED, UNSUPPORTED, Malformed


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with in_process().client() as client:
        yield client


class Raises:
    """A `run` that raises what it is told."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def __call__(
        self, variant: str, requests: Sequence[Arrays]
    ) -> BatchResult[Sequence[Arrays]]:
        raise self.error


@pytest.mark.parametrize("error", STATUS, ids=lambda error: error.__name__)
async def test_every_error_has_its_status(error: type[ServingError]) -> None:
    async with in_process(Raises(error("this would have worked"))).client() as client:
        response = await client.post(INFER, json=body())
    assert_refuses(response, STATUS[error].http, "this would have worked")
    assert ("retry-after" in response.headers) == (error is Overloaded)


@pytest.mark.parametrize(("retry_after_s", "header"), [(0.001, "1"), (1.0, "1"), (2.1, "3")])
async def test_retry_after_is_in_whole_seconds_and_never_at_once(
    retry_after_s: float, header: str
) -> None:
    async with in_process(Raises(Overloaded("busy", retry_after_s))).client() as client:
        response = await client.post(INFER, json=body())
    assert response.headers["retry-after"] == header


@pytest.mark.parametrize(
    ("path", "parameters", "status", "message"),
    [
        pytest.param(
            "/v2/models/hats/infer", {}, 404, "no model 'hats'; there is 'shirts'", id="model"
        ),
        pytest.param(
            "/v2/models/shirts/versions/int4/infer",
            {},
            404,
            "no variant 'int4'; there are dense, int8",
            id="a version that is no variant",
        ),
        pytest.param(INFER, {"variant": "int4"}, 404, "no variant 'int4'", id="no such variant"),
        pytest.param(
            INFER, {"min_accuracy": 0.99}, 422, "the best accuracy is 0.9000 (dense)", id="accuracy"
        ),
        pytest.param(
            INFER, {"slo_latency_ms": 0.001}, 422, "the fastest is int8", id="faster than any"
        ),
        pytest.param(INFER, {"priority": "high"}, 400, "'priority' must be a whole", id="bad slo"),
    ],
)
async def test_what_cannot_be_had_is_refused_with_what_can(
    client: httpx.AsyncClient, path: str, parameters: dict[str, Any], status: int, message: str
) -> None:
    response = await client.post(path, json=body(parameters=parameters))
    assert_refuses(response, status, message)
    response = await client.post(path, json=body(parameters=parameters, id="a1"))
    assert_refuses(response, status, message, "a1")


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"x-slo-latency-ms": "soon"}, "header x-slo-latency-ms must be a number"),
        ({"content-encoding": "br"}, "Content-Encoding must be gzip, deflate or identity, got"),
        ({"content-encoding": "gzip"}, "the body does not match its Content-Encoding"),
        ({"content-encoding": "deflate"}, "the body does not match its Content-Encoding"),
        ({"inference-header-content-length": "ten"}, "must be the length of the JSON part"),
        ({"inference-header-content-length": "-1"}, "must be the length of the JSON part"),
        ({"inference-header-content-length": ""}, "must be the length of the JSON part"),
        ({"inference-header-content-length": "9" * 30}, "must be the length of the JSON part"),
        ({"inference-header-content-length": "9" * 18}, "but the body has"),
    ],
)
async def test_bad_headers_are_refused(
    client: httpx.AsyncClient, headers: dict[str, str], message: str
) -> None:
    assert_refuses(await client.post(INFER, json=body(), headers=headers), 400, message)


@pytest.mark.parametrize("case", UNSUPPORTED, ids=lambda case: case.rule)
async def test_an_extension_that_is_not_offered_is_refused_and_is_no_fault_of_ours(
    client: httpx.AsyncClient, case: Malformed, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "serving"):
        response = await client.post(INFER, content=case.body)
    assert_refuses(response, 501, case.message, case.id)
    assert {record.levelname for record in caplog.records} == {"INFO"}


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.rule)
async def test_a_malformed_request_is_refused_and_the_next_is_answered(
    client: httpx.AsyncClient, case: Malformed
) -> None:
    headers = {}
    if case.json_length is not None:
        headers["inference-header-content-length"] = str(case.json_length)
    response = await client.post(INFER, content=case.body, headers=headers)
    assert_refuses(response, 400, case.message, case.id)
    assert_answers(await client.post(INFER, json=body()), "dense", pixels())


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", INFER, "POST"),
        ("PUT", INFER, "POST"),
        ("POST", "/v2", "GET, HEAD"),
        ("DELETE", "/v2/models/shirts", "GET, HEAD"),
        ("POST", "/v2/models/shirts/versions/int8/ready", "GET, HEAD"),
        ("POST", "/v2/health/live", "GET, HEAD"),
        ("PATCH", "/metrics", "GET, HEAD"),
        ("POST", "/-/healthz", "GET, HEAD"),
    ],
)
async def test_another_method_is_refused_with_the_one_that_works(
    client: httpx.AsyncClient, method: str, path: str, allow: str
) -> None:
    response = await client.request(method, path)
    assert_refuses(response, 405, f"{path!r} accepts {allow}, not {method}")
    assert response.headers["allow"] == allow


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v2/models/shirts/",
        "/v2/models//infer",
        "/v2/models/shirts/versions//infer",
        "/v2/models/shirts/versions/int8/infer/more",
        "/v2/models/shirts/versions/int8%2Finfer/infer",
        "/v2/health",
        "/v2/health/live%0A",
        "/v2/mod%00els",
        "/" + "x" * 5_000,
    ],
)
async def test_there_is_nothing_elsewhere(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert_refuses(response, 404, "; see GET /v2")
    assert len(response.content) < 500


@pytest.mark.parametrize("name", ["$abc", "%F0%9F%91%95", "a%20b", "x" * 5_000, "%00"])
@pytest.mark.parametrize("rest", ["", "/ready", "/infer", "/versions/dense/infer"])
async def test_no_model_has_a_strange_name(client: httpx.AsyncClient, name: str, rest: str) -> None:
    method = "POST" if rest.endswith("infer") else "GET"
    response = await client.request(method, f"/v2/models/{name}{rest}")
    assert response.status_code == 404
    assert len(response.content) < 500


async def test_the_cause_of_a_failure_goes_to_the_log_and_not_to_the_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with in_process(Raises(RuntimeError("disk at 10.0.0.7 is full"))).client() as client:
        response = await client.post(INFER, json=body())
    assert_refuses(response, 500, "inference failed; the cause was logged")
    assert "10.0.0.7" not in response.text
    assert "disk at 10.0.0.7 is full" in caplog.text


async def test_a_fault_of_the_service_is_an_error_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def forgetful(variant: str, requests: Sequence[Arrays]) -> BatchResult[Sequence[Arrays]]:
        return BatchResult([{} for _ in requests], compute_s=0.0)

    async with in_process(forgetful).client() as client:
        response = await client.post(INFER, json=body(outputs=[{"name": "label"}]))
    assert_refuses(response, 500, "internal error; the cause was logged")
    assert "label" not in response.text
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "KeyError: 'label'" in caplog.text
    assert (vars(record)["path"], vars(record)["status"]) == (INFER, 500)


@pytest.mark.parametrize("error", STATUS, ids=lambda error: error.__name__)
async def test_a_refusal_for_load_is_logged_for_debugging_only(
    error: type[ServingError], caplog: pytest.LogCaptureFixture
) -> None:
    is_for_load = error in (Overloaded, DeadlineExceeded)
    async with in_process(Raises(error("busy"))).client() as client:
        for level, count in ((logging.INFO, 0 if is_for_load else 1), (logging.DEBUG, 1)):
            with caplog.at_level(level, "serving"):
                caplog.clear()
                await client.post(INFER, json=body())
            found = [each for each in caplog.records if each.name == failure.__name__]
            assert len(found) == count, level
    assert (vars(found[0])["error"], vars(found[0])["path"]) == (error.__name__, INFER)
    assert vars(found[0])["status"] == STATUS[error].http


async def test_a_caller_that_leaves_before_its_body_is_whole_is_not_answered() -> None:
    messages: Iterator[Mapping[str, Any]] = iter(
        [
            {"type": "http.request", "body": b"{", "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    sent = []

    async def receive() -> Mapping[str, Any]:
        return next(messages)

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": INFER, "headers": []}
    await in_process().protocol(scope, receive, send)
    assert sent == []


async def test_what_is_refused_before_it_is_a_request_is_counted_too() -> None:
    gateway = in_process()
    async with gateway.client() as client:
        await client.post(INFER, content=b"{")
        await client.post("/v2/models/trousers/infer", json=body())
        await client.post(INFER, json=body() | {"parameters": {"slo_latency_ms": -1}})
    for error, count in {"InvalidRequest": 2, "ModelNotFound": 1}.items():
        labels = {"model": "shirts", "error": error}
        assert gateway.registry.get_sample_value("paretoserve_errors_total", labels) == count
