from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from loadtests.client.grpc import ERROR, INFER, STREAM, run_closed_loop, run_closed_loop_streams
from loadtests.client.http import LoadResult

RUNS = pytest.mark.parametrize(
    "run", [run_closed_loop, run_closed_loop_streams], ids=["calls", "streams"]
)

Run = Callable[[int, bytes, int, float], LoadResult]


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server that answers `ERROR` with an error."""

    def answer(message: bytes, context: grpc.ServicerContext) -> bytes:
        if message == ERROR:
            context.abort(grpc.StatusCode.INTERNAL, "it broke")
        return b"ok"

    def answer_stream(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from messages

    service, _, method = INFER[1:].partition("/")
    handlers: dict[str, Any] = {
        method: grpc.unary_unary_rpc_method_handler(answer),
        STREAM.rpartition("/")[2]: grpc.stream_stream_rpc_method_handler(answer_stream),
    }
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    chosen = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield chosen
    server.stop(None).wait()


@RUNS
def test_each_client_sends_at_least_once(run: Run, port: int) -> None:
    result = run(port, b"request", 3, 0.0)
    assert len(result.latencies_s) == 3
    assert result.failures == 0


@RUNS
def test_errors_are_failures_and_the_first_one_is_kept(run: Run, port: int) -> None:
    result = run(port, ERROR, 1, 0.0)
    assert (result.failures, result.latencies_s) == (1, [])
    assert result.first_failure
