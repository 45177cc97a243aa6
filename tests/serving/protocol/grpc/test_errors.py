"""Statuses, messages and trailing metadata of failed calls."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult
from serving.errors import STATUS, NotReady, Overloaded, ServingError
from serving.protocol.control import NO_REPOSITORY
from serving.protocol.grpc.call import SERVICE
from tests.serving.builders import in_process, pixels
from tests.serving.protocol.grpc.calls import (
    assert_answers,
    call,
    call_error,
    infer_request,
    serving,
    with_parameters,
)
from tests.serving.protocol.malformed.case import Malformed
from tests.serving.protocol.malformed.grpc_only import NOT_PROTOBUF
from tests.serving.protocol.malformed.table import OVER_GRPC, each


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    async with serving(in_process()) as channel:
        yield channel


class Raises:
    """A `run` that raises this error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def __call__(
        self, variant: str, requests: Sequence[Arrays]
    ) -> BatchResult[Sequence[Arrays]]:
        raise self.error


def trailing(error: Any) -> dict[str, str]:
    return dict(error.trailing_metadata())


@pytest.mark.parametrize("error", STATUS, ids=lambda error: error.__name__)
async def test_every_error_has_its_status(error: type[ServingError]) -> None:
    async with serving(in_process(Raises(error("this would have worked")))) as channel:
        caught = await call_error(channel, "ModelInfer", infer_request(id="a-1"))
    assert caught.code() is grpc.StatusCode[STATUS[error].grpc]
    assert caught.details() == "this would have worked"
    assert trailing(caught)["request-id"] == "a-1"
    assert ("grpc-retry-pushback-ms" in trailing(caught)) == (error in (NotReady, Overloaded))


@pytest.mark.parametrize(
    ("retry_after_s", "text"), [(0.0, "1"), (0.001, "1"), (0.0101, "11"), (2.0, "2000")]
)
async def test_the_retry_delay_is_in_whole_milliseconds_and_at_least_1(
    retry_after_s: float, text: str
) -> None:
    async with serving(in_process(Raises(Overloaded("busy", retry_after_s)))) as channel:
        caught = await call_error(channel, "ModelInfer", infer_request())
    assert trailing(caught)["grpc-retry-pushback-ms"] == text


@pytest.mark.parametrize("name", ["", "größe", "two\nlines", "x" * 10_000])
async def test_an_id_that_metadata_cannot_hold_is_not_returned(name: str) -> None:
    async with serving(in_process(Raises(Overloaded("busy")))) as channel:
        caught = await call_error(channel, "ModelInfer", infer_request(id=name))
    assert caught.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "request-id" not in trailing(caught)


@pytest.mark.parametrize(
    ("text", "shortened"),
    [
        pytest.param("größer als 👕\n\x00", "größer als 👕\n\x00", id="not ASCII"),
        pytest.param("a lone \ud800 surrogate", "a lone ? surrogate", id="a lone surrogate"),
        pytest.param("é" * 50_000, "é" * 1_000, id="longer than metadata allow"),
    ],
)
async def test_any_message_can_be_sent(text: str, shortened: str) -> None:
    async with serving(in_process(Raises(Overloaded(text)))) as channel:
        caught = await call_error(channel, "ModelInfer", infer_request())
    assert caught.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.details() == shortened


@each(OVER_GRPC)
async def test_a_malformed_request_gets_an_error_and_the_next_is_answered(
    channel: grpc.aio.Channel, case: Malformed
) -> None:
    caught = await call_error(channel, "ModelInfer", case.grpc)
    assert caught.code() is grpc.StatusCode[STATUS[case.error].grpc]
    assert case.message in caught.details()
    assert trailing(caught).get("request-id") == case.id
    assert_answers(await call(channel, "ModelInfer", infer_request()), "dense", pixels())


async def test_an_unknown_model_takes_precedence_over_a_malformed_message(
    channel: grpc.aio.Channel,
) -> None:
    message = infer_request(model_name="hats", id="a1")
    del message.raw_input_contents[:]
    caught = await call_error(channel, "ModelInfer", message)
    assert caught.code() is grpc.StatusCode.NOT_FOUND
    assert trailing(caught)["request-id"] == "a1"


@pytest.mark.parametrize("rpc", ["ModelInfer", "ServerLive", "ModelConfig", "LogSettings"])
@each(NOT_PROTOBUF)
async def test_bytes_that_are_not_a_message_are_rejected_by_every_rpc(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture, rpc: str, case: Malformed
) -> None:
    caplog.set_level(logging.INFO)
    caught = await call_error(channel, rpc, case.grpc)
    assert caught.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.details() == f"the message is not a valid inference.{rpc}Request"
    assert "Traceback" not in caplog.text
    assert_answers(await call(channel, "ModelInfer", infer_request()), "dense", pixels())


@pytest.mark.parametrize(
    ("rpc", "message", "code", "text"),
    [
        pytest.param(
            "ModelInfer",
            infer_request(model_name="hats"),
            "NOT_FOUND",
            "no model 'hats'; there is 'shirts'",
            id="model",
        ),
        pytest.param(
            "ModelInfer",
            infer_request(model_version="int4"),
            "NOT_FOUND",
            "no variant 'int4'; there are dense, int8",
            id="unknown version",
        ),
        pytest.param(
            "ModelInfer",
            with_parameters(infer_request(), min_accuracy=0.99),
            "FAILED_PRECONDITION",
            "the best accuracy is 0.9000 (dense)",
            id="accuracy",
        ),
        pytest.param(
            "ModelInfer",
            with_parameters(infer_request(), priority="high"),
            "INVALID_ARGUMENT",
            "'priority' must be a whole",
            id="invalid SLO",
        ),
        *(
            pytest.param(
                rpc,
                getattr(pb, f"{rpc}Request")(name=name, version=version),
                "NOT_FOUND",
                text,
                id=f"{rpc} of {name} {version}",
            )
            for rpc in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")
            for name, version, text in (
                ("hats", "", "no model 'hats'; there is 'shirts'"),
                ("shirts", "int4", "no variant 'int4'; there are dense, int8"),
            )
        ),
    ],
)
async def test_the_error_states_what_is_available(
    channel: grpc.aio.Channel, rpc: str, message: Any, code: str, text: str
) -> None:
    caught = await call_error(channel, rpc, message)
    assert caught.code() is grpc.StatusCode[code]
    assert text in caught.details()


@pytest.mark.parametrize(
    ("rpc", "text"),
    [
        ("RepositoryModelLoad", NO_REPOSITORY),
        ("RepositoryModelUnload", NO_REPOSITORY),
        ("SystemSharedMemoryStatus", "shared memory is not supported"),
        ("SystemSharedMemoryRegister", "shared memory is not supported"),
        ("SystemSharedMemoryUnregister", "shared memory is not supported"),
        ("CudaSharedMemoryStatus", "shared memory is not supported"),
        ("CudaSharedMemoryRegister", "shared memory is not supported"),
        ("CudaSharedMemoryUnregister", "shared memory is not supported"),
        ("TraceSetting", "trace settings are not supported"),
        ("LogSettings", "log settings are not supported"),
    ],
)
async def test_unsupported_rpcs_are_rejected(
    channel: grpc.aio.Channel, rpc: str, text: str
) -> None:
    caught = await call_error(channel, rpc, getattr(pb, f"{rpc}Request")())
    assert caught.code() is grpc.StatusCode.UNIMPLEMENTED
    assert text in caught.details()


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    method: Any = channel.unary_unary(f"/{SERVICE}/ModelDream")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_cause_of_an_internal_error_is_logged_and_not_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(in_process(Raises(RuntimeError("disk at 10.0.0.7 is full")))) as channel:
        caught = await call_error(channel, "ModelInfer", infer_request())
    assert caught.code() is grpc.StatusCode.INTERNAL
    assert caught.details() == "inference failed; the cause was logged"
    assert "disk at 10.0.0.7 is full" in caplog.text


async def test_an_unforeseen_error_is_logged_and_counted_and_its_cause_is_not_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run_without_outputs(
        variant: str, requests: Sequence[Arrays]
    ) -> BatchResult[Sequence[Arrays]]:
        return BatchResult([{} for _ in requests], compute_s=0.0)

    gateway = in_process(run_without_outputs)
    message = infer_request()
    message.outputs.add(name="label")
    async with serving(gateway) as channel:
        caught = await call_error(channel, "ModelInfer", message)
    assert caught.code() is grpc.StatusCode.INTERNAL
    assert caught.details() == "internal error; the cause was logged"
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "KeyError: 'label'" in caplog.text
    assert vars(record)["path"] == f"/{SERVICE}/ModelInfer"
    labels = {"model": "shirts", "error": "KeyError"}
    assert gateway.registry.get_sample_value("paretoserve_errors_total", labels) == 1


async def test_an_error_is_one_line_in_the_log(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await call_error(channel, "ModelInfer", infer_request(model_name="hats"))
    (record,) = [record for record in caplog.records if record.name.startswith("serving")]
    assert (record.levelno, record.exc_info) == (logging.INFO, None)
    assert vars(record)["error"] == "ModelNotFound"


async def test_errors_before_the_data_plane_are_counted() -> None:
    gateway = in_process()
    async with serving(gateway) as channel:
        await call_error(channel, "ModelInfer", b"\xff")
        await call_error(channel, "ModelInfer", infer_request(model_name="trousers"))
        message = with_parameters(infer_request(), slo_latency_ms=-1)
        await call_error(channel, "ModelInfer", message)
    for error, count in {"InvalidRequest": 2, "ModelNotFound": 1}.items():
        labels = {"model": "shirts", "error": error}
        assert gateway.registry.get_sample_value("paretoserve_errors_total", labels) == count
