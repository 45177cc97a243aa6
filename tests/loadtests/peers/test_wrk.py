from __future__ import annotations

import shutil

import pytest

from loadtests.peers import wrk
from loadtests.peers.process import free_port
from tests.loadtests.server import ok, tiny_server

LINE = (
    'RESULT {"responses": 3000, "duration_us": 2000000, "other_status": 1000, "socket_errors": 3,'
    ' "timeouts": 4, "p50_us": 1500, "p99_us": 9250}'
)
OUTPUT = f"""Running 2s test @ http://127.0.0.1:8000/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.13ms    2.00ms  30.00ms   90.00%
  3000 requests in 2.00s, 1.00MB read
  Non-2xx or 3xx responses: 1000

{LINE}
"""

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


def test_only_status_200_counts_as_answered_and_all_else_as_errors() -> None:
    assert wrk.parse(OUTPUT) == wrk.Result(
        requests_per_s=1000.0, p50_ms=1.5, p99_ms=9.25, errors=1007
    )


@pytest.mark.parametrize(
    "output",
    [
        "",
        "unable to connect to 127.0.0.1:1 Connection refused\n",
        OUTPUT.replace(LINE, LINE[:60]),
        OUTPUT.replace('"p99_us": 9250', '"p95_us": 9250'),
        OUTPUT.replace("2000000", "0"),
        OUTPUT.replace(LINE, "RESULT [1]"),
    ],
)
def test_output_without_a_complete_result_raises_with_the_output(output: str) -> None:
    with pytest.raises(RuntimeError, match="wrk printed no result"):
        wrk.parse(output)


def test_missing_wrk_is_reported_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="apt-get install wrk"):
        wrk.find()


@needs_wrk
def test_body_and_headers_are_posted_unchanged_and_other_statuses_are_counted() -> None:
    body = bytes(range(256)) * 12
    heads: list[bytes] = []

    def answer(number: int, head: bytes) -> bytes:
        heads.append(head)
        return ok() if number % 2 else ok(status=201)

    with tiny_server(answer) as port:
        result = wrk.run(f"http://127.0.0.1:{port}/path", body, {"X-Name": "a b"}, 1, 1.0)
    lines = heads[0].split(b"\r\n")
    assert lines[0] == b"POST /path HTTP/1.1"
    assert {b"X-Name: a b", f"Content-Length: {len(body)}".encode()} <= set(lines)
    assert result.errors == pytest.approx(len(heads) / 2, abs=2)
    assert result.requests_per_s > 0


@needs_wrk
def test_a_refused_connection_raises_with_the_message_of_wrk() -> None:
    with pytest.raises(RuntimeError, match="unable to connect"):
        wrk.run(f"http://127.0.0.1:{free_port()}/", b"", {}, 1, 1.0)
