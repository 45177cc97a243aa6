"""The format of the metrics is the one that the client prefers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import INFER, assert_answers, body

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""What Prometheus 3 sends."""


async def scrape(*accepts: str) -> httpx.Response:
    async with in_process().client() as client:
        assert_answers(await client.post(INFER, json=body()), "dense", pixels())
        del client.headers["accept"]
        headers: Any = [("accept", accept) for accept in accepts]
        return await client.get("/metrics", headers=headers)


@pytest.mark.parametrize(
    ("accepts", "content_type"),
    [
        ([], TEXT),
        (["*/*"], TEXT),
        (["text/html"], TEXT),
        (["text/plain"], TEXT),
        (["text/plain;version=0.0.4"], TEXT),
        (["application/openmetrics-text"], OPENMETRICS),
        (["Application/OpenMetrics-Text; version=1.0.0"], OPENMETRICS),
        ([PROMETHEUS], OPENMETRICS),
        (["text/plain", "application/openmetrics-text"], TEXT),
        (["text/plain;q=0.5", "application/openmetrics-text"], OPENMETRICS),
        (["application/openmetrics-text;q=0.2, text/plain"], TEXT),
        (["application/openmetrics-text;q=0"], TEXT),
        (["application/openmetrics-text;version=latest"], TEXT),
        (["application/openmetrics-text;version=0.0.1"], TEXT),
    ],
)
async def test_the_format_is_chosen_by_accept(accepts: list[str], content_type: str) -> None:
    response = await scrape(*accepts)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(content_type)
    assert response.headers["vary"] == "accept"
    assert response.text.endswith("# EOF\n") == (content_type == OPENMETRICS)


async def test_both_formats_are_valid_and_have_the_same_metrics() -> None:
    async def names(accept: str, read: Callable[[str], Iterable[Any]]) -> set[str]:
        families = read((await scrape(accept)).text)
        return {family.name for family in families if not family.name.endswith("_created")}

    text = await names("text/plain", read_text)
    openmetrics = await names(OPENMETRICS, read_openmetrics)
    assert "paretoserve_requests" in openmetrics
    assert {name.removesuffix("_total") for name in text} == openmetrics


async def test_metrics_are_compressed_only_for_clients_that_accept_nothing_else() -> None:
    async with in_process().client() as client:
        for accepted, coding in (("gzip", None), ("gzip, identity;q=0", "gzip")):
            response = await client.get("/metrics", headers={"accept-encoding": accepted})
            assert response.headers.get("content-encoding") == coding
            assert response.text.startswith("# HELP")
        headers = {"accept-encoding": "gzip, identity;q=0"}
        response = await client.post("/v2/models/hats/infer", json=body(), headers=headers)
        assert response.headers["content-encoding"] == "gzip"
        assert "no model 'hats'" in response.json()["error"]
