from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult
from serving.errors import STATUS, DeadlineExceeded, NotReady, Overloaded, ServingError
from serving.protocol import failure
from serving.telemetry.line_budget import LINES
from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import INFER, assert_answers, assert_error, body
from tests.serving.protocol.malformed.case import Malformed
from tests.serving.protocol.malformed.table import (
    HTTP_BODIES,
    OVER_HTTP,
    UNSUPPORTED_OVER_HTTP,
    each,
)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with in_process().client() as client:
        yield client


class Raises:
    """A `run` that raises this error."""

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
    assert_error(response, STATUS[error].http, "this would have worked")
    assert ("retry-after" in response.headers) == (error in (NotReady, Overloaded))


@pytest.mark.parametrize(("retry_after_s", "header"), [(0.001, "1"), (1.0, "1"), (2.1, "3")])
async def test_retry_after_is_in_whole_seconds_and_at_least_1(
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
            id="unknown version",
        ),
        pytest.param(INFER, {"variant": "int4"}, 404, "no variant 'int4'", id="unknown variant"),
        pytest.param(
            INFER, {"min_accuracy": 0.99}, 422, "the best accuracy is 0.9000 (dense)", id="accuracy"
        ),
        pytest.param(INFER, {"slo_latency_ms": 0.001}, 422, "the fastest is int8", id="latency"),
        pytest.param(
            INFER, {"priority": "high"}, 400, "'priority' must be a whole", id="invalid SLO"
        ),
    ],
)
async def test_the_error_states_what_is_available(
    client: httpx.AsyncClient, path: str, parameters: dict[str, Any], status: int, message: str
) -> None:
    response = await client.post(path, json=body(parameters=parameters))
    assert_error(response, status, message)
    response = await client.post(path, json=body(parameters=parameters, id="a1"))
    assert_error(response, status, message, "a1")


@each(UNSUPPORTED_OVER_HTTP)
async def test_an_unsupported_extension_is_logged_at_level_info(
    client: httpx.AsyncClient, case: Malformed, caplog: pytest.LogCaptureFixture
) -> None:
    assert case.http is not None
    with caplog.at_level(logging.INFO, "serving"):
        response = await client.post(INFER, content=case.http.body)
    assert_error(response, 501, case.message, case.id)
    assert {record.levelname for record in caplog.records} == {"INFO"}


@each(OVER_HTTP)
async def test_a_malformed_request_gets_an_error_and_the_next_is_answered(
    client: httpx.AsyncClient, case: Malformed
) -> None:
    assert case.http is not None
    response = await client.post(INFER, content=case.http.body, headers=case.http.all_headers)
    assert_error(response, STATUS[case.error].http, case.message, case.id)
    assert_answers(await client.post(INFER, json=body()), "dense", pixels())


@each(HTTP_BODIES)
async def test_an_unknown_model_takes_precedence_over_a_malformed_body(
    client: httpx.AsyncClient, case: Malformed
) -> None:
    assert case.http is not None
    response = await client.post(
        "/v2/models/hats/infer", content=case.http.body, headers=case.http.all_headers
    )
    assert_error(response, 404, "no model 'hats'", case.id)


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
async def test_another_method_gets_an_error_with_the_allowed_ones(
    client: httpx.AsyncClient, method: str, path: str, allow: str
) -> None:
    response = await client.request(method, path)
    assert_error(response, 405, f"{path!r} accepts {allow}, not {method}")
    assert response.headers["allow"] == allow


async def test_an_encoded_slash_is_a_part_of_a_name(client: httpx.AsyncClient) -> None:
    response = await client.post("/v2/models/shirts/versions/int8%2Finfer/infer", json=body())
    assert_error(response, 404, "there is no variant 'int8/infer'")
    response = await client.get("/v2/models/shirts%2Fready")
    assert_error(response, 404, "there is no model 'shirts/ready'")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v2/models/shirts/",
        "/v2/models//infer",
        "/v2/models/shirts/versions//infer",
        "/v2/models/shirts/versions/int8/infer/more",
        "/v2/health",
        "/v2/health/live%0A",
        "/v2/mod%00els",
        "/" + "x" * 5_000,
    ],
)
async def test_unknown_paths_are_not_found(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert_error(response, 404, "; see /docs in a browser")
    assert len(response.content) < 500


@pytest.mark.parametrize("name", ["$abc", "%F0%9F%91%95", "a%20b", "x" * 5_000, "%00"])
@pytest.mark.parametrize("rest", ["", "/ready", "/infer", "/versions/dense/infer"])
async def test_odd_model_names_are_not_found(
    client: httpx.AsyncClient, name: str, rest: str
) -> None:
    method = "POST" if rest.endswith("infer") else "GET"
    response = await client.request(method, f"/v2/models/{name}{rest}")
    assert response.status_code == 404
    assert len(response.content) < 500


async def test_the_cause_of_an_internal_error_is_logged_and_not_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with in_process(Raises(RuntimeError("disk at 10.0.0.7 is full"))).client() as client:
        response = await client.post(INFER, json=body())
    assert_error(response, 500, "inference failed; the cause was logged")
    assert "10.0.0.7" not in response.text
    assert "disk at 10.0.0.7 is full" in caplog.text


async def test_an_unforeseen_error_gets_a_response_without_its_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run_without_outputs(
        variant: str, requests: Sequence[Arrays]
    ) -> BatchResult[Sequence[Arrays]]:
        return BatchResult([{} for _ in requests], compute_s=0.0)

    gateway = in_process(run_without_outputs)
    async with gateway.client() as client:
        response = await client.post(INFER, json=body(outputs=[{"name": "label"}]))
        metrics = (await client.get("/metrics")).text
    counts = re.findall(r"^paretoserve_requests_total{.*} (.*)$", metrics, re.MULTILINE)
    assert counts == ["1.0"], "it is counted once"
    assert_error(response, 500, "internal error; the cause was logged")
    assert "label" not in response.text
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "KeyError: 'label'" in caplog.text
    assert (vars(record)["path"], vars(record)["status"]) == (INFER, 500)


@pytest.mark.parametrize("error", STATUS, ids=lambda error: error.__name__)
async def test_errors_due_to_load_are_logged_at_level_debug(
    error: type[ServingError], caplog: pytest.LogCaptureFixture
) -> None:
    is_due_to_load = error in (Overloaded, DeadlineExceeded)
    async with in_process(Raises(error("busy"))).client() as client:
        for level, count in ((logging.INFO, 0 if is_due_to_load else 1), (logging.DEBUG, 1)):
            with caplog.at_level(level, "serving"):
                caplog.clear()
                await client.post(INFER, json=body())
            records = [record for record in caplog.records if record.name == failure.__name__]
            assert len(records) == count, level
    assert (vars(records[0])["error"], vars(records[0])["path"]) == (error.__name__, INFER)
    assert vars(records[0])["status"] == STATUS[error].http


async def test_errors_before_the_data_plane_are_counted() -> None:
    gateway = in_process()
    async with gateway.client() as client:
        await client.post(INFER, content=b"{")
        await client.post("/v2/models/trousers/infer", json=body())
        await client.post(INFER, json=body() | {"parameters": {"slo_latency_ms": -1}})
    for error, count in {"InvalidRequest": 2, "ModelNotFound": 1}.items():
        labels = {"model": "shirts", "error": error}
        assert gateway.registry.get_sample_value("paretoserve_errors_total", labels) == count


async def test_a_flood_of_refused_requests_is_counted_and_hides_no_other_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = in_process()
    with caplog.at_level(logging.INFO, "serving"):
        async with gateway.client() as client:
            for _ in range(100):
                await client.post(INFER, json=body(parameters={"min_accuracy": 1.0}))
            await client.post(INFER, content=b"{")
    records = [record for record in caplog.records if record.name == failure.__name__]
    errors = [vars(record)["error"] for record in records]
    assert errors == ["SloUnattainable"] * LINES + ["InvalidRequest"]
    labels = {"model": "shirts", "error": "SloUnattainable"}
    assert gateway.registry.get_sample_value("paretoserve_errors_total", labels) == 100
