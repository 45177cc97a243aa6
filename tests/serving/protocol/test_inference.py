"""Rules of both transports, between the parsing of a request and the rendering of the response."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import pytest

from serving.dataplane.awaiting import ended
from serving.dataplane.delivery import Delivery
from serving.dataplane.executor import BatchResult
from serving.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidRequest,
    ModelNotFound,
    ServingError,
    SloUnattainable,
)
from serving.protocol.messages import InferRequest, InferResponse
from serving.routing.slo import Slo
from tests.serving.builders import InProcess, in_process, pixels

TOO_SHORT_S = 1e-6
LONG_S = 60.0


def request_with(**parameters: Any) -> InferRequest:
    return InferRequest({"pixels": pixels()}, "a1", parameters)


async def answer(
    request: InferRequest,
    *,
    model: str = "shirts",
    variant: str | None = None,
    default_slo: Slo | None = None,
    timeout_s: float = math.inf,
) -> InferResponse:
    gateway = in_process(default_slo=default_slo)
    return await answer_by(gateway, request, model=model, variant=variant, timeout_s=timeout_s)


async def answer_by(
    gateway: InProcess,
    request: InferRequest,
    *,
    model: str = "shirts",
    variant: str | None = None,
    timeout_s: float = math.inf,
) -> InferResponse:
    inference, delivery, now = gateway.inference, Delivery(), time.monotonic()
    return await ended(
        lambda on_end: inference.start(
            model, variant, request, {}, now, on_end, delivery, timeout_s
        ),
        inference.cancel,
    )


@pytest.mark.parametrize(
    ("default_s", "parameters", "timeout_s", "is_met"),
    [
        pytest.param(math.inf, {}, math.inf, True, id="no deadline"),
        pytest.param(math.inf, {}, TOO_SHORT_S, False, id="time-out only"),
        pytest.param(
            math.inf,
            {"slo_latency_ms": 1e5},
            TOO_SHORT_S,
            False,
            id="time-out before the request's deadline",
        ),
        pytest.param(
            math.inf,
            {"slo_latency_ms": 1e-3},
            LONG_S,
            False,
            id="time-out after the request's deadline",
        ),
        pytest.param(TOO_SHORT_S, {}, LONG_S, False, id="time-out after the default"),
        pytest.param(
            TOO_SHORT_S, {"slo_latency_ms": 1e5}, LONG_S, True, id="request before the default"
        ),
        pytest.param(LONG_S, {}, TOO_SHORT_S, False, id="time-out before the default"),
    ],
)
async def test_the_deadline_is_the_earlier_of_the_slo_and_the_client_timeout(
    default_s: float, parameters: dict[str, Any], timeout_s: float, is_met: bool
) -> None:
    answering = answer(
        request_with(**parameters), default_slo=Slo(latency_s=default_s), timeout_s=timeout_s
    )
    if is_met:
        assert (await answering).model_version == "dense"
    else:
        is_call = timeout_s < min(default_s, parameters.get("slo_latency_ms", math.inf) / 1e3)
        error = DeadlineExceeded if is_call else SloUnattainable
        with pytest.raises(error, match="when idle") as caught:
            await answering
        assert ("the call times out" in str(caught.value)) == is_call


@pytest.mark.parametrize(
    ("names", "parameters", "error"),
    [
        ({"model": "hats"}, {}, ModelNotFound),
        ({"variant": "int4"}, {}, ModelNotFound),
        ({}, {"variant": "int4"}, ModelNotFound),
        ({}, {"priority": "high"}, InvalidRequest),
        ({}, {"min_accuracy": 0.99}, SloUnattainable),
    ],
)
async def test_every_error_carries_the_id_of_the_request(
    names: dict[str, str], parameters: dict[str, Any], error: type[ServingError]
) -> None:
    with pytest.raises(error) as caught:
        await answer(request_with(**parameters), **names)  # type: ignore[arg-type]
    assert caught.value.request_id == "a1"


async def test_an_unknown_model_takes_precedence_over_a_malformed_message() -> None:
    error = InvalidRequest("malformed")
    error.request_id = "a1"
    gateway = in_process()
    with pytest.raises(ModelNotFound, match="no model 'hats'") as caught:
        gateway.inference.reject("hats", None, error)
    assert caught.value.request_id == "a1"
    gateway.inference.reject("shirts", "int8", error)
    for name in ("ModelNotFound", "InvalidRequest"):
        labels = {"model": "shirts", "error": name}
        assert gateway.registry.get_sample_value("paretoserve_errors_total", labels) == 1


async def test_a_version_that_contradicts_the_parameter_variant_is_an_error() -> None:
    assert (await answer(request_with(variant="int8"), variant="int8")).model_version == "int8"
    message = "two variants: 'int8' as the version of the model, and 'dense' as the parameter"
    with pytest.raises(InvalidRequest, match=message):
        await answer(request_with(variant="dense"), variant="int8")


async def test_each_request_of_a_failed_batch_gets_an_error_with_its_own_id() -> None:
    async def fail(variant: str, requests: object) -> BatchResult[Any]:
        raise InferenceFailed("both hosts were lost")

    gateway = in_process(fail)
    requests = [InferRequest({"pixels": pixels()}, id=str(number)) for number in range(4)]
    errors = await asyncio.gather(
        *(answer_by(gateway, each) for each in requests), return_exceptions=True
    )
    assert [error.request_id for error in errors if isinstance(error, ServingError)] == [*"0123"]
