"""V2 over HTTP, as an ASGI application: parse, delegate, render. Nothing is decided here.

The routes are one table at the end of the file. It is plain ASGI because the path of a request is
hot: a framework's routing, request and response objects cost more than all else in this file.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from math import ceil
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from serving.dataplane.dataplane import DataPlane
from serving.errors import (
    STATUS,
    InvalidRequest,
    NotReady,
    Overloaded,
    ServingError,
    Unsupported,
)
from serving.protocol.documents import Documents
from serving.protocol.failure import FAILED, log_failure
from serving.protocol.http.body import ClientGone, Receive, read_body
from serving.protocol.http.codec import parse_request, render_response
from serving.protocol.http.compression import encode
from serving.protocol.inference import Inference
from serving.protocol.openapi import document as openapi

Scope: TypeAlias = Mapping[str, Any]
Send: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[None]]
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

JSON: Final = b"application/json"
BINARY: Final = b"application/octet-stream"
HTML: Final = b"text/html; charset=utf-8"
JSON_LENGTH: Final = b"inference-header-content-length"
EXPLORER: Final = Path(__file__).with_name("explorer.html")


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


class HttpProtocol:
    """The ASGI application of a gateway."""

    def __init__(
        self,
        dataplane: DataPlane,
        inference: Inference,
        documents: Documents,
        registry: CollectorRegistry,
        *,
        max_body_bytes: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dataplane = dataplane
        self._inference = inference
        self._documents = documents
        self._registry = registry
        self._max_body_bytes = max_body_bytes
        self._now = now
        self._openapi = orjson.dumps(
            openapi.document(
                dataplane.model,
                list(dataplane.profiles),
                version=documents.version,
                max_batch=dataplane.max_batch,
                max_body_bytes=max_body_bytes,
            )
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        call = Call(dict(scope["headers"]), receive, self._now())
        try:
            reply = await self._reply(scope, call)
        except ServingError as error:
            log_failure(error, scope["path"])
            reply = _refusal(error)
        except ClientGone:
            return
        except Exception as error:
            self._dataplane.rejected(error)
            log_failure(error, scope["path"])
            reply = _error(HTTPStatus.INTERNAL_SERVER_ERROR, FAILED)
        headers = [
            (b"content-type", reply.content_type),
            (b"content-length", str(len(reply.body)).encode()),
            *reply.headers,
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _reply(self, scope: Scope, call: Call) -> Reply:
        path, method = scope["path"], scope["method"]
        if method == "HEAD":  # the server leaves the body out
            method = "GET"
        others: dict[str, None] = {}
        for route_method, pattern, handler in ROUTES:
            match = pattern.fullmatch(path)
            if match and route_method == method:
                return await handler(self, call, **match.groupdict())
            if match:
                others |= dict.fromkeys(["GET", "HEAD"] if route_method == "GET" else ["POST"])
        if others:
            allow = ", ".join(others)
            text = f"{path!r:.200} takes {allow}, not {method:.20}"
            allowed = ((b"allow", allow.encode()),)
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, text, headers=allowed)
        return _error(HTTPStatus.NOT_FOUND, f"there is nothing at {path!r:.200}; see GET /v2")

    async def infer(self, call: Call, model: str, variant: str | None) -> Reply:
        """POST .../infer: tensors in, tensors out, and why."""
        try:
            body = await read_body(call.headers, call.receive, self._max_body_bytes)
            json_length = _json_length(call.headers)
        except ServingError as error:
            self._dataplane.rejected(error)
            raise
        read = partial(parse_request, body, json_length, self._dataplane.model.inputs)
        request, response = await self._inference.answer(
            model, variant, read, _metadata(call.headers), call.received
        )
        content, json_length = render_response(response, request.outputs, request.binary_output)
        content_type, headers = JSON, []
        if json_length is not None:
            content_type = BINARY
            headers.append((JSON_LENGTH, str(json_length).encode()))
        # Nothing else is compressed: tritonclient asks for it always, and unpacks only answers.
        content, coding = encode(content, call.headers.get(b"accept-encoding"))
        if coding is not None:
            headers += [(b"content-encoding", coding), (b"vary", b"accept-encoding")]
        return Reply(content, content_type, headers=headers)

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
        return _json(self._documents.server())

    async def models(self, call: Call) -> Reply:
        """GET /v2/models: which models there are."""
        return _json(self._documents.models())

    async def model(self, call: Call, model: str, variant: str | None) -> Reply:
        """GET the metadata of the model."""
        return _json(self._documents.model(model, variant))

    async def model_ready(self, call: Call, model: str, variant: str | None) -> Reply:
        """GET .../ready: the model, or one variant, can answer."""
        is_ready = self._documents.is_ready(model, variant)
        return _json({"name": model, "ready": is_ready}, _ready_status(is_ready))

    async def config(self, call: Call, model: str, variant: str | None) -> Reply:
        """GET .../config: the model's configuration, as Triton's clients want it."""
        return _json(self._documents.config(model, variant))

    async def statistics(
        self, call: Call, model: str | None = None, variant: str | None = None
    ) -> Reply:
        """GET .../stats: what was counted since the gateway started."""
        return _json(self._documents.statistics(model, variant))

    async def index(self, call: Call) -> Reply:
        """POST /v2/repository/index: the variants, and which can answer."""
        body = await read_body(call.headers, call.receive, self._max_body_bytes)
        return _json(self._documents.index(only_ready=_only_ready(body)))

    async def change(self, call: Call, model: str) -> Reply:
        """POST .../load and .../unload: not on the fly."""
        raise Unsupported("models are not loaded or unloaded on the fly here")

    async def openapi(self, call: Call) -> Reply:
        """GET /openapi.json: what can be asked, for programs."""
        return Reply(self._openapi)

    async def explorer(self, call: Call) -> Reply:
        """GET /docs: a page to try it, for people."""
        return Reply(EXPLORER.read_bytes(), HTML)

    async def metrics(self, call: Call) -> Reply:
        """GET /metrics, for Prometheus."""
        return Reply(generate_latest(self._registry), CONTENT_TYPE_LATEST.encode())


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


def _metadata(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the headers that say something about how to answer: all of ours begin with x-."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in headers.items()
        if name.startswith(b"x-")
    }


def _only_ready(body: bytes) -> bool:
    """Return what a request for the repository's index asks for."""
    try:
        document = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    only_ready = document.get("ready", False) if isinstance(document, dict) else None
    if not isinstance(only_ready, bool):
        raise InvalidRequest('the body must be a JSON object; its "ready", true or false')
    return only_ready


def _ready_status(is_ready: bool) -> int:
    return HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE


def _json(document: Any, status: int = HTTPStatus.OK) -> Reply:
    return Reply(orjson.dumps(document), status=status)


def _error(status: int, text: str, request_id: str | None = None, headers: Headers = ()) -> Reply:
    # A surrogate in a path or a name must not make the answer itself fail.
    document = {"error": text.encode("utf-8", "replace").decode()}
    if request_id is not None:
        document["id"] = request_id
    return Reply(orjson.dumps(document), status=status, headers=headers)


def _refusal(error: ServingError) -> Reply:
    headers: Headers = ()
    if isinstance(error, Overloaded):
        headers = ((b"retry-after", str(max(1, ceil(error.retry_after_s))).encode()),)
    return _error(STATUS[type(error)].http, str(error), error.request_id, headers)


_NAMED: Final = r"/v2/models/(?P<model>[^/]+)"
_MODEL: Final = _NAMED + r"(?:/versions/(?P<variant>[^/]+))?"

ROUTES: Final[tuple[tuple[str, re.Pattern[str], Callable[..., Awaitable[Reply]]], ...]] = (
    ("POST", re.compile(_MODEL + "/infer"), HttpProtocol.infer),
    ("GET", re.compile("/metrics"), HttpProtocol.metrics),
    ("GET", re.compile("/-/healthz"), HttpProtocol.healthz),
    ("GET", re.compile("/v2/health/live"), HttpProtocol.live),
    ("GET", re.compile("/v2/health/ready"), HttpProtocol.ready),
    ("GET", re.compile("/v2/?"), HttpProtocol.server),
    ("GET", re.compile(r"/openapi\.json"), HttpProtocol.openapi),
    ("GET", re.compile("/docs"), HttpProtocol.explorer),
    ("GET", re.compile("/v2/models/?"), HttpProtocol.models),
    ("GET", re.compile("/v2/models/stats"), HttpProtocol.statistics),
    ("GET", re.compile(_MODEL), HttpProtocol.model),
    ("GET", re.compile(_MODEL + "/ready"), HttpProtocol.model_ready),
    ("GET", re.compile(_MODEL + "/config"), HttpProtocol.config),
    ("GET", re.compile(_MODEL + "/stats"), HttpProtocol.statistics),
    ("POST", re.compile("/v2/repository/index"), HttpProtocol.index),
    ("POST", re.compile("/v2/repository/models/(?P<model>[^/]+)/(?:un)?load"), HttpProtocol.change),
)
