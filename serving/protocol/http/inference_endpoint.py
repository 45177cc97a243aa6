"""Inference requests over HTTP: parses whole requests, starts them and renders their responses.

    head, body ─▶ InferRequest ─▶ Inference.start ─▶ callback ─▶ Response

It makes no decision, and no task: a response is passed to a callback, often much later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Final

from serving.dataplane.call import Call
from serving.dataplane.dataplane import DataPlane
from serving.dataplane.delivery import Delivery
from serving.errors import InvalidRequest, RequestTooLarge, ServingError
from serving.protocol import repeated
from serving.protocol.control import Caller
from serving.protocol.failure import INTERNAL_ERROR, log_failure
from serving.protocol.http.caller import read_caller
from serving.protocol.http.codec import parse_request, render_response
from serving.protocol.http.compression import NEVER, decompress, encode
from serving.protocol.http.head import RequestHead
from serving.protocol.http.place import Place
from serving.protocol.http.response import BINARY, JSON, Response, error_response, status_response
from serving.protocol.inference import Inference
from serving.protocol.messages import InferRequest, InferResponse

JSON_LENGTH: Final = repeated.JSON_LENGTH.encode()


class InferenceEndpoint:
    """Answers the inference requests of a gateway over HTTP."""

    def __init__(
        self,
        dataplane: DataPlane,
        inference: Inference,
        *,
        max_body_bytes: int,
        check_caller: Callable[[Caller], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`check_caller` raises `Unauthorized` for a caller that may not send requests."""
        self.max_body_bytes = max_body_bytes
        self._dataplane = dataplane
        self._inference = inference
        self._check_caller = check_caller
        self._now = now
        self._delivery = Delivery()

    def check_head(self, head: RequestHead) -> Response | None:
        """Return the error response that the head of a request makes necessary, if any."""
        fields = head.fields
        try:
            if self._check_caller is not None:
                self._check_caller(read_caller(fields, head.client))
            if int(fields.get(b"content-length", b"0")) > self.max_body_bytes:
                raise self._too_large()
        except Exception as failure:
            self._dataplane.rejected(failure)
            return _failed(head, failure)
        return None

    def count_rejected(self, target: bytes, failure: ServingError) -> None:
        """Count and log a request whose head is invalid; the connection answers it."""
        self._dataplane.rejected(failure)
        _log(target, failure)

    def too_large(self, head: RequestHead) -> Response:
        """Count a request whose body is too large, and return the response to it."""
        return self.rejected(head, self._too_large())

    def rejected(self, head: RequestHead, failure: ServingError) -> Response:
        """Count a request that is rejected before it is parsed, and return the response to it."""
        self._dataplane.rejected(failure)
        return _failed(head, failure)

    def start(
        self,
        head: RequestHead,
        place: Place,
        body: bytes | bytearray,
        waited_s: float,
        occupy: Callable[[int], None],
        on_response: Callable[[Response], None],
    ) -> Call | None:
        """Answer a request: `on_response` is called once, perhaps before this returns.

        It waited at the front door for `waited_s`. `occupy` counts the bytes that it occupies
        besides the body; it raises `NotReady` if there is no room. Returns the call, for `cancel`;
        None if the request could not be queued.
        """
        fields = head.fields
        try:
            request = self._parse(fields, place, body, occupy)
            return self._inference.start(
                place.model,
                place.variant,
                request,
                _metadata(fields),
                head.arrived,
                partial(self._end, head, request, on_response),
                self._delivery,
                waited_s=waited_s,
            )
        except Exception as failure:
            if not isinstance(failure, ServingError):
                self._dataplane.rejected(failure)
            on_response(_failed(head, failure))
            return None

    def cancel(self, call: Call) -> None:
        """Forget a request whose client has gone."""
        self._inference.cancel(call)

    def _parse(
        self,
        fields: Mapping[bytes, bytes],
        place: Place,
        body: bytes | bytearray,
        occupy: Callable[[int], None],
    ) -> InferRequest:
        try:
            coding = fields.get(b"content-encoding")
            if coding is not None:
                body = decompress(body, coding, self.max_body_bytes)
                occupy(len(body))
            json_length = _json_length(fields)
        except ServingError as failure:
            self._dataplane.rejected(failure)
            raise
        try:
            dataplane = self._dataplane
            return parse_request(body, json_length, dataplane.model.inputs, dataplane.max_values)
        except ServingError as failure:
            self._inference.reject(place.model, place.variant, failure)
            raise

    def _end(
        self,
        head: RequestHead,
        request: InferRequest,
        on_response: Callable[[Response], None],
        result: InferResponse | Exception,
    ) -> None:
        answered_at = self._now()
        if isinstance(result, Exception):
            on_response(_failed(head, result))
            return
        try:
            response = _render(request, result, head.fields.get(b"accept-encoding"))
        except Exception as failure:
            on_response(_failed(head, failure))
            return
        on_response(response)
        written_at = self._now()
        self._delivery.record_written(written_at, written_at - answered_at)

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(
            f"the body is larger than {self.max_body_bytes} bytes; send fewer samples"
        )


def _failed(head: RequestHead, failure: Exception) -> Response:
    """Log a failure that was counted, and return the response to the request."""
    _log(head.target, failure)
    if isinstance(failure, ServingError):
        response = error_response(failure)
    else:
        response = status_response(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR)
    return encode(response, head.fields.get(b"accept-encoding"), NEVER)


def _log(target: bytes, failure: Exception) -> None:
    log_failure(failure, target.decode("latin-1"), route="infer")


def _render(request: InferRequest, response: InferResponse, accepted: bytes | None) -> Response:
    content, json_length = render_response(response, request.outputs, request.binary_output)
    content_type, headers = JSON, []
    if json_length is not None:
        content_type = BINARY
        headers.append((JSON_LENGTH, b"%d" % json_length))
    return encode(Response(content, content_type, headers=headers), accepted)


def _json_length(fields: Mapping[bytes, bytes]) -> int | None:
    text = fields.get(JSON_LENGTH)
    if text is None:
        return None
    text = text.strip()
    if not text.isdigit() or len(text) > 18:
        raise InvalidRequest(
            "the header Inference-Header-Content-Length must be the length of the JSON part "
            f"in bytes, got {text.decode('latin-1')!r:.100}"
        )
    return int(text)


def _metadata(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the headers that can state an SLO or an experiment unit: they all begin with x-."""
    return {
        name.decode("latin-1"): value.decode("latin-1").strip(" \t")
        for name, value in fields.items()
        if name.startswith(b"x-")
    }
