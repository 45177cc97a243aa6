"""Headers that are missing, given twice, or ask for another transfer coding."""

from __future__ import annotations

import logging

import pytest

from serving.protocol import failure
from serving.protocol.http.fields import ONE_HOST, read_fields
from tests.serving.builders import in_process
from tests.serving.protocol.calls import INFER
from tests.serving.protocol.http.sockets import SMALL, RawClient, error_of, listening


def request(*lines: str, version: str = "1.1", path: str = INFER) -> bytes:
    """Return an inference request with these headers."""
    head = [f"POST {path} HTTP/{version}", *lines, f"content-length: {len(SMALL)}", "", ""]
    return "\r\n".join(head).encode() + SMALL


async def error_to(message: bytes, status: int) -> str:
    async with listening(in_process()) as listener:
        raw = RawClient(listener.port)
        await raw.send(message)
        response = await raw.read()
        raw.close()
    return error_of(response, status)


TWICE = "is given twice with different values; send it once"


@pytest.mark.parametrize("path", [INFER, "/v2/repository/index"])
async def test_a_contradiction_is_an_error(path: str) -> None:
    message = request("host: x", "x-slo-latency-ms: 5", "X-SLO-Latency-ms: 500", path=path)
    assert await error_to(message, 400) == f"x-slo-latency-ms {TWICE}"


@pytest.mark.parametrize(("path", "count"), [(INFER, 1), ("/v2/repository/index", None)])
async def test_an_error_in_the_headers_of_an_inference_request_is_counted_and_logged(
    path: str, count: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = in_process()
    with caplog.at_level(logging.INFO, failure.__name__):
        async with listening(gateway) as listener:
            raw = RawClient(listener.port)
            await raw.send(request("host: x", "host: y", path=path))
            error_of(await raw.read(), 400)
            raw.close()
    labels = {"model": "shirts", "error": "InvalidRequest"}
    assert gateway.registry.get_sample_value("paretoserve_errors_total", labels) == count
    records = [vars(record) for record in caplog.records if record.name == failure.__name__]
    logged = [(record["message"], record["path"], record["status"]) for record in records]
    assert logged == ([(ONE_HOST, INFER, 400)] if count else [])


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param((), id="missing"),
        pytest.param(("host: x", "host: y"), id="given twice"),
        pytest.param(("host: x", "host: x"), id="given twice with one value"),
    ],
)
async def test_the_header_host_must_be_given_once(lines: tuple[str, ...]) -> None:
    assert await error_to(request(*lines), 400) == ONE_HOST


async def test_http_1_0_has_no_header_host() -> None:
    async with listening(in_process()) as listener:
        raw = RawClient(listener.port)
        await raw.send(request(version="1.0"))
        assert (await raw.read()).startswith(b"HTTP/1.1 200")
        raw.close()


async def test_lines_of_a_list_are_joined() -> None:
    async with listening(in_process()) as listener:
        raw = RawClient(listener.port)
        await raw.send(request("host: x", "accept-encoding: identity;q=0", "accept-encoding: gzip"))
        response = await raw.read_until(b"\r\n\r\n")
        raw.close()
    assert b"\r\ncontent-encoding: gzip\r\n" in response


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "identity"])
async def test_a_transfer_coding_other_than_chunked_is_not_supported(coding: str) -> None:
    message = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: {coding}\r\n\r\n"
    assert "Transfer-Encoding must be chunked" in await error_to(message.encode(), 501)


def test_chunked_may_be_written_in_capital_letters() -> None:
    headers = [(b"host", b"x"), (b"transfer-encoding", b"Chunked")]
    assert read_fields(headers, "1.1") == dict(headers)
