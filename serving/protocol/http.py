"""V2 over HTTP, as an ASGI application: parse, delegate, render. Nothing is decided here.

The routes are one table at the end of the file. It is plain ASGI because the path of a request is
hot: a framework's routing, request and response objects cost more than all else in this file.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from math import ceil
from typing import Any, Final, NamedTuple, TypeAlias

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from serving.dataplane import DataPlane
from serving.errors import (
    STATUS,
    InvalidRequest,
    NotReady,
    Overloaded,
    RequestTooLarge,
    ServingError,
)
from serving.protocol.codec import parse_request, render_response
from serving.protocol.messages import InferResponse
from serving.slo import Slo
from serving.slo import parse as parse_slo
from variants.catalog import TensorSpec

logger = logging.getLogger(__name__)

Scope: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
Send: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[None]]
Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

JSON: Final = b"application/json"
BINARY: Final = b"application/octet-stream"
JSON_LENGTH: Final = b"inference-header-content-length"
UNIT: Final = b"x-experiment-unit"
EXTENSIONS: Final = ("binary_tensor_data", "parameters", "schedule_policy")


class Call(NamedTuple):
    """A request whose route is known, and whose body was not read yet."""

    headers: Mapping[bytes, bytes]
    receive: Receive
    received: float


class Reply(NamedTuple):
    """A response that was not sent yet."""

    body: bytes
    content_type: bytes = JSON
    status: int = HTTPStatus.OK
    headers: Headers = ()


class ClientGone(Exception):
    """The client left before its request was whole: there is nobody to answer."""


class HttpProtocol:
    """The ASGI application of a gateway."""

    def __init__(
        self,
        dataplane: DataPlane,
        registry: CollectorRegistry,
        *,
        version: str,
        default_slo: Slo,
        max_body_bytes: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dataplane = dataplane
        self._registry = registry
        self._version = version
        self._default_slo = default_slo
        self._max_body_bytes = max_body_bytes
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        received = self._now()
        try:
            reply = await self._reply(scope, Call(dict(scope["headers"]), receive, received))
        except ServingError as error:
            reply = _refusal(error)
            _log_failure(error, reply.status, scope)
        except ClientGone:
            return
        except Exception as error:
            self._dataplane.rejected(error)
            reply = _error(HTTPStatus.INTERNAL_SERVER_ERROR, "the service failed; it was logged")
            _log_failure(error, reply.status, scope)
        headers = [
            (b"content-type", reply.content_type),
            (b"content-length", str(len(reply.body)).encode()),
            *reply.headers,
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _reply(self, scope: Scope, call: Call) -> Reply:
        path, method = scope["path"], scope["method"]
        others = []
        for route_method, pattern, handler in ROUTES:
            match = pattern.fullmatch(path)
            if match and route_method == method:
                return await handler(self, call, **match.groupdict())
            if match:
                others.append(route_method)
        if others:
            allow = ", ".join(others)
            text = f"{path!r:.200} takes {allow}, not {method:.20}"
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, text, ((b"allow", allow.encode()),))
        return _error(HTTPStatus.NOT_FOUND, f"there is nothing at {path!r:.200}; see GET /v2")

    async def infer(self, call: Call, model: str, variant: str | None) -> Reply:
        """POST .../infer: tensors in, tensors out, and why."""
        try:
            body = await self._body(call)
            self._dataplane.check_name(model, variant)
            request = parse_request(body, _json_length(call.headers))
            pin = {} if variant is None else {"variant": variant}
            headers = _slo_headers(call.headers)
            slo = parse_slo({**request.parameters, **pin}, headers, self._default_slo)
        except ServingError as error:
            self._dataplane.rejected(error)
            raise
        unit = call.headers.get(UNIT)
        answer = await self._dataplane.infer(
            request.inputs,
            request.outputs,
            slo,
            None if unit is None else unit.decode("latin-1"),
            call.received,
        )
        names = request.outputs or answer.outputs
        response = InferResponse(
            model_name=model,
            model_version=answer.variant,
            outputs={name: answer.outputs[name] for name in names},
            id=request.id,
            parameters=answer.explanation,
        )
        content, json_length = render_response(response, request.outputs, request.binary_output)
        if json_length is None:
            return Reply(content)
        return Reply(content, BINARY, headers=((JSON_LENGTH, str(json_length).encode()),))

    async def live(self, call: Call) -> Reply:
        """GET /v2/health/live: the process runs."""
        return _json({"live": True})

    async def ready(self, call: Call) -> Reply:
        """GET /v2/health/ready: every variant has been up."""
        is_ready = self._dataplane.is_ready
        return _json({"ready": is_ready, "live": True}, _ready_status(is_ready))

    async def healthz(self, call: Call) -> Reply:
        """GET /-/healthz: what KubeRay asks of every pod that takes traffic."""
        if not self._dataplane.is_ready:
            raise NotReady("the service is starting or stopping")
        return Reply(b"success", b"text/plain; charset=utf-8")

    async def server(self, call: Call) -> Reply:
        """GET /v2: what this server is."""
        return _json({"name": "paretoserve", "version": self._version, "extensions": EXTENSIONS})

    async def model(self, call: Call, model: str, variant: str | None) -> Reply:
        """GET the metadata of the model; its versions are the variants."""
        self._dataplane.check_name(model, variant)
        description = self._dataplane.model
        return _json(
            {
                "name": description.name,
                "versions": list(self._dataplane.offers) if variant is None else [variant],
                "platform": "paretoserve",
                "inputs": [_tensor(spec) for spec in description.inputs],
                "outputs": [_tensor(spec) for spec in description.outputs],
            }
        )

    async def model_ready(self, call: Call, model: str, variant: str | None) -> Reply:
        """GET .../ready: the model, or one variant, can answer."""
        self._dataplane.check_name(model, variant)
        if variant is None:
            is_ready = self._dataplane.is_ready
        else:
            is_ready = self._dataplane.is_variant_ready(variant)
        return _json({"name": model, "ready": is_ready}, _ready_status(is_ready))

    async def metrics(self, call: Call) -> Reply:
        """GET /metrics, for Prometheus."""
        return Reply(generate_latest(self._registry), CONTENT_TYPE_LATEST.encode())

    async def _body(self, call: Call) -> bytes:
        encoding = call.headers.get(b"content-encoding", b"identity")
        if encoding != b"identity":
            raise InvalidRequest("compressed bodies are not taken; send Content-Encoding: identity")
        chunks = []
        size = int(call.headers.get(b"content-length", b"0"))
        arrived = 0
        while True:
            if size > self._max_body_bytes:
                raise RequestTooLarge(
                    f"the body is larger than {self._max_body_bytes} bytes; send fewer samples"
                )
            message = await call.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunks.append(message.get("body", b""))
            arrived += len(chunks[-1])
            size = max(size, arrived)
            if size <= self._max_body_bytes and not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _json_length(headers: Mapping[bytes, bytes]) -> int | None:
    text = headers.get(JSON_LENGTH)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        raise InvalidRequest(
            "the header Inference-Header-Content-Length must be the length of the JSON part "
            f"in bytes, got {text.decode('latin-1')!r:.100}"
        )
    return int(text)


def _slo_headers(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in headers.items()
        if name.startswith(b"x-slo-")
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _ready_status(is_ready: bool) -> int:
    return HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE


def _json(document: Mapping[str, Any], status: int = HTTPStatus.OK) -> Reply:
    return Reply(orjson.dumps(document), status=status)


def _error(status: int, text: str, headers: Headers = ()) -> Reply:
    # A surrogate in a path or a name must not make the answer itself fail.
    printable = text.encode("utf-8", "replace").decode()
    return Reply(orjson.dumps({"error": printable}), status=status, headers=headers)


def _refusal(error: ServingError) -> Reply:
    headers: Headers = ()
    if isinstance(error, Overloaded):
        headers = ((b"retry-after", str(max(1, ceil(error.retry_after_s))).encode()),)
    return _error(STATUS[type(error)], str(error), headers)


def _log_failure(error: Exception, status: int, scope: Scope) -> None:
    """Write one line per failed request; with a traceback only where the fault is ours."""
    fields = {"path": scope["path"][:200], "status": int(status), "error": type(error).__name__}
    is_ours = not isinstance(error, ServingError)
    logger.log(
        logging.ERROR if status >= HTTPStatus.INTERNAL_SERVER_ERROR else logging.INFO,
        "%s",
        error,
        extra=fields,
        exc_info=error if is_ours else None,
    )


_MODEL: Final = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<variant>[^/]+))?"

ROUTES: Final[tuple[tuple[str, re.Pattern[str], Callable[..., Awaitable[Reply]]], ...]] = (
    ("POST", re.compile(_MODEL + "/infer"), HttpProtocol.infer),
    ("GET", re.compile("/metrics"), HttpProtocol.metrics),
    ("GET", re.compile("/-/healthz"), HttpProtocol.healthz),
    ("GET", re.compile("/v2/health/live"), HttpProtocol.live),
    ("GET", re.compile("/v2/health/ready"), HttpProtocol.ready),
    ("GET", re.compile("/v2/?"), HttpProtocol.server),
    ("GET", re.compile(_MODEL), HttpProtocol.model),
    ("GET", re.compile(_MODEL + "/ready"), HttpProtocol.model_ready),
)
