"""What both transports do with a request to infer, between parsing it and rendering its answer.

    message + metadata ─▶ SLO ─▶ data plane ─▶ message

The metadata are HTTP's headers or gRPC's, by lower-case name. Nothing is decided here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from serving.dataplane.dataplane import DataPlane
from serving.errors import ServingError
from serving.protocol.messages import InferRequest, InferResponse
from serving.routing.slo import PARAMETERS, Slo
from serving.routing.slo import parse as parse_slo

UNIT: Final = "x-experiment-unit"

_OWN: Final = {*PARAMETERS, "binary_data_output", "headers", "experiment", "arm"}
_RESERVED: Final = ("sequence_", "triton_")
"""Parameters that begin so have a meaning in the protocol, though none here."""


class Inference:
    """Answers requests to infer for one gateway, whichever transport they came by."""

    def __init__(self, dataplane: DataPlane, default_slo: Slo) -> None:
        self._dataplane = dataplane
        self._default_slo = default_slo

    async def answer(
        self,
        model: str,
        variant: str | None,
        read: Callable[[], InferRequest],
        metadata: Mapping[str, str],
        received: float,
        within_s: float = math.inf,
    ) -> tuple[InferRequest, InferResponse]:
        """Answer the request that `read` parses, which came at `received`; return both.

        `within_s` is how long the client will wait, where the transport tells: the deadline, if
        there is none or a later one. Raises a leaf of `ServingError`, which carries the
        request's id as far as it could be read.
        """
        try:
            self._check_name(model, variant, read)
            request = read()
            slo = self._slo(request, variant, metadata, within_s)
        except ServingError as error:
            self._dataplane.rejected(error)
            raise
        try:
            answer = await self._dataplane.infer(
                request.inputs, request.outputs, slo, metadata.get(UNIT), received
            )
        except ServingError as error:
            error.request_id = request.id
            raise
        names = request.outputs or answer.outputs
        response = InferResponse(
            model_name=model,
            model_version=answer.variant,
            outputs={name: answer.outputs[name] for name in names},
            id=request.id,
            parameters={**_passed_through(request.parameters), **answer.explanation},
        )
        return request, response

    def _check_name(
        self, model: str, variant: str | None, read: Callable[[], InferRequest]
    ) -> None:
        try:
            self._dataplane.check_name(model, variant)
        except ServingError as error:
            try:
                error.request_id = read().id
            except ServingError as unread:
                error.request_id = unread.request_id
            raise

    def _slo(
        self,
        request: InferRequest,
        variant: str | None,
        metadata: Mapping[str, str],
        within_s: float,
    ) -> Slo:
        pin = {} if variant is None else {"variant": variant}
        try:
            slo = parse_slo({**request.parameters, **pin}, metadata, self._default_slo)
        except ServingError as error:
            error.request_id = request.id
            raise
        return slo if slo.latency_s <= within_s else replace(slo, latency_s=within_s)


def _passed_through(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the client's own parameters: they come back with the answer."""
    return {
        name: value
        for name, value in parameters.items()
        if name not in _OWN and not name.startswith(_RESERVED)
    }
