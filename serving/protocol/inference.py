"""The part of an inference request that both transports share.

    InferRequest + metadata ─▶ SLO ─▶ data plane ─▶ InferResponse

A transport parses the request, calls `Inference.start` and renders the response. The metadata are
the HTTP headers or the gRPC metadata, by lower-case name. No decision is made here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, Final

from serving.dataplane.call import Answer, Call
from serving.dataplane.dataplane import DataPlane
from serving.dataplane.delivery import Delivery
from serving.dataplane.request import OnEnd
from serving.errors import InvalidRequest, ModelNotFound, ServingError, shorten
from serving.protocol.messages import InferRequest, InferResponse
from serving.routing.slo import PARAMETERS, Slo
from serving.routing.slo import parse as parse_slo

UNIT_HEADER: Final = "x-experiment-unit"
"""Header or metadata key of the unit by which an experiment assigns an arm."""

_NOT_ECHOED: Final = {*PARAMETERS, "binary_data_output", "headers", "experiment", "arm"}
_NOT_ECHOED_PREFIXES: Final = ("sequence_", "triton_")
"""Parameters with these prefixes have a meaning in the protocol that this service does not use."""


class Inference:
    """Answers the inference requests of one gateway, over any transport."""

    def __init__(self, dataplane: DataPlane, default_slo: Slo) -> None:
        self._dataplane = dataplane
        self._default_slo = default_slo

    def start(
        self,
        model: str,
        variant: str | None,
        request: InferRequest,
        metadata: Mapping[str, str],
        received: float,
        on_end: OnEnd[InferResponse],
        delivery: Delivery,
        timeout_s: float = math.inf,
        waited_s: float = 0.0,
    ) -> Call:
        """Answer a request that arrived at `received`: `on_end` is called once with the response.

        It waited at the front door for `waited_s` of the seconds since then. `delivery` is that of
        the transport.

        `timeout_s` is the time-out that the client set in the transport. It is the deadline if the
        request states none or a later one. Raises a leaf of `ServingError` if the request cannot be
        queued. Later failures, unforeseen exceptions among them, are passed to `on_end`, perhaps
        before this returns. Errors carry the id of the request. Returns the call, for `cancel`.
        """
        try:
            slo = self._check(model, variant, request, metadata, timeout_s)
            return self._dataplane.submit(
                request.inputs,
                request.outputs,
                slo,
                metadata.get(UNIT_HEADER),
                received,
                partial(_end, model, request, on_end),
                delivery,
                waited_s,
            )
        except ServingError as error:
            error.request_id = request.id
            raise

    def cancel(self, call: Call) -> None:
        """Forget a request whose client has gone; nothing happens if it has ended."""
        self._dataplane.cancel(call)

    def reject(self, model: str, variant: str | None, error: ServingError) -> None:
        """Count a request whose parsing raised `error`; the caller raises it again.

        Raises `ModelNotFound` in its place if there is no such model or variant: an unknown name
        takes precedence over a malformed message.
        """
        try:
            self._dataplane.check_name(model, variant)
        except ModelNotFound as not_found:
            not_found.request_id = error.request_id
            self._dataplane.rejected(not_found)
            raise
        self._dataplane.rejected(error)

    def _check(
        self,
        model: str,
        variant: str | None,
        request: InferRequest,
        metadata: Mapping[str, str],
        timeout_s: float,
    ) -> Slo:
        """Check the names and return the SLO of the request."""
        try:
            self._dataplane.check_name(model, variant)
            parameters = request.parameters
            if variant is not None:
                parameters = _pin(parameters, variant)
            slo = parse_slo(parameters, metadata, self._default_slo)
        except ServingError as error:
            self._dataplane.rejected(error)
            raise
        if slo.latency_s <= timeout_s:
            return slo
        return replace(slo, latency_s=timeout_s, is_call_timeout=True)


def _pin(parameters: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Return the parameters of a request that names a variant as the version of the model."""
    pinned = parameters.get("variant", variant)
    if pinned != variant:
        raise InvalidRequest(
            f"the request names two variants: {shorten(variant)} as the version of the model, and "
            f"{shorten(pinned)} as the parameter 'variant'; name one"
        )
    return {**parameters, "variant": variant}


def _end(
    model: str,
    request: InferRequest,
    on_end: OnEnd[InferResponse],
    answer: Answer | Exception,
) -> None:
    """Pass on the response to a request of which the data plane has the answer."""
    response: InferResponse | Exception
    if isinstance(answer, Exception):
        response = copy(answer)  # all requests of a batch share it, and each has its own id
        if isinstance(response, ServingError):
            response.request_id = request.id
    else:
        try:
            response = _response(model, request, answer)
        except Exception as error:  # nothing else would answer the request
            response = error
    on_end(response)


def _response(model: str, request: InferRequest, answer: Answer) -> InferResponse:
    outputs = answer.outputs
    if request.outputs:
        outputs = {name: outputs[name] for name in request.outputs}
    parameters = {**_echoed(request.parameters), **answer.explanation}
    return InferResponse(model, answer.variant, outputs, request.id, parameters)


def _echoed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the client's own parameters, which the response repeats."""
    return {
        name: value
        for name, value in parameters.items()
        if name not in _NOT_ECHOED and not name.startswith(_NOT_ECHOED_PREFIXES)
    }
