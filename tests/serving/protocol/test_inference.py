"""What holds for both transports, between parsing a request and rendering its answer."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from serving.errors import InvalidRequest, ModelNotFound, ServingError, SloUnattainable
from serving.protocol.messages import InferRequest, InferResponse
from serving.routing.slo import Slo
from tests.serving.builders import in_process, pixels

TOO_SHORT_S = 1e-6
LONG_S = 60.0


def request(**parameters: Any) -> InferRequest:
    return InferRequest({"pixels": pixels()}, "a1", parameters)


async def answer(
    asked: InferRequest,
    *,
    model: str = "shirts",
    variant: str | None = None,
    default_slo: Slo | None = None,
    within_s: float = math.inf,
) -> InferResponse:
    inference = in_process(default_slo=default_slo).inference
    _, response = await inference.answer(
        model, variant, lambda: asked, {}, time.monotonic(), within_s
    )
    return response


@pytest.mark.parametrize(
    ("default", "parameters", "within_s", "is_met"),
    [
        pytest.param(math.inf, {}, math.inf, True, id="nobody says anything"),
        pytest.param(math.inf, {}, TOO_SHORT_S, False, id="the client's deadline alone"),
        pytest.param(math.inf, {"slo_latency_ms": 1e5}, TOO_SHORT_S, False, id="it is the nearer"),
        pytest.param(math.inf, {"slo_latency_ms": 1e-3}, LONG_S, False, id="it is the farther"),
        pytest.param(TOO_SHORT_S, {}, LONG_S, False, id="it does not loosen the default"),
        pytest.param(TOO_SHORT_S, {"slo_latency_ms": 1e5}, LONG_S, True, id="the request's wins"),
        pytest.param(LONG_S, {}, TOO_SHORT_S, False, id="it bounds the default"),
    ],
)
async def test_the_deadline_is_the_nearest_of_what_is_asked_and_what_is_waited_for(
    default: float, parameters: dict[str, Any], within_s: float, is_met: bool
) -> None:
    asked = answer(request(**parameters), default_slo=Slo(latency_s=default), within_s=within_s)
    if is_met:
        assert (await asked).model_version == "dense"
    else:
        with pytest.raises(SloUnattainable, match="even when idle"):
            await asked


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
async def test_every_refusal_knows_the_id_of_the_request(
    names: dict[str, str], parameters: dict[str, Any], error: type[ServingError]
) -> None:
    with pytest.raises(error) as refused:
        await answer(request(**parameters), **names)  # type: ignore[arg-type]
    assert refused.value.request_id == "a1"


async def test_a_request_that_cannot_be_read_for_a_model_that_is_not_here_keeps_its_id() -> None:
    def read() -> InferRequest:
        error = InvalidRequest("unreadable")
        error.request_id = "a1"
        raise error

    with pytest.raises(ModelNotFound, match="no model 'hats'") as refused:
        await in_process().inference.answer("hats", None, read, {}, time.monotonic())
    assert refused.value.request_id == "a1"


async def test_the_path_pins_a_variant_whatever_the_parameters_say() -> None:
    assert (await answer(request(variant="dense"), variant="int8")).model_version == "int8"
