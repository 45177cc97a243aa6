"""The Open Inference Protocol V2 over HTTP, as an ASGI application.

It parses requests, delegates them and renders responses; it makes no decision. The table of routes
is at the end of the file. No framework is used, because the routing, request and response objects
of one would cost more per request than everything else in this file.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache, partial
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
    Unauthorized,
    Unsupported,
)
from serving.protocol.control import (
    ADMIN,
    AUTHORIZATION,
    CHALLENGE,
    NO_REPOSITORY,
    Caller,
    Control,
)
from serving.protocol.documents import Documents
from serving.protocol.failure import INTERNAL_ERROR, log_failure
from serving.protocol.http.body import ClientDisconnected, Receive, read_body
from serving.protocol.http.codec import parse_request, render_response
from serving.protocol.http.compression import compress
from serving.protocol.inference import Inference
from serving.protocol.openapi.document import openapi_document

Scope: TypeAlias = Mapping[str, Any]
Send: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[None]]
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

JSON: Final = b"application/json"
BINARY: Final = b"application/octet-stream"
HTML: Final = b"text/html; charset=utf-8"
JSON_LENGTH: Final = b"inference-header-content-length"
INDEX_BYTES: Final = 4096
"""Maximum size of the body of a request for the repository index."""
INDEX_ADVICE: Final = 'send no body, or {"ready": true}'
LOAD_ADVICE: Final = "send a shorter recipe as `config`, or the name of one in the project file"
UNLOAD_ADVICE: Final = "send no body"
EXPLORER: Final = Path(__file__).with_name("explorer.html")


class Response(NamedTuple):
    """A response, before it is sent."""

    body: bytes
    content_type: bytes = JSON
    status: int = HTTPStatus.OK
    headers: Headers = ()
    answered_at: float | None = None
    """When the data plane returned the answer to an inference request."""


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
        control: Control | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without `control`, nothing about the variants can be changed."""
        self._dataplane = dataplane
        self._inference = inference
        self._documents = documents
        self._registry = registry
        self._max_body_bytes = max_body_bytes
        self._now = now
        self._control = control
        self._check_inference = control.check_inference if control else None
        self._openapi = lru_cache(maxsize=1)(
            partial(_openapi, dataplane, documents, max_body_bytes, control)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._control is not None and scope["path"].startswith(ADMIN):
            await self._control.admin(scope, receive, send)
            return
        try:
            response = await self._dispatch(scope, receive)
        except ServingError as error:
            log_failure(error, scope["path"])
            response = _error_response(error)
        except ClientDisconnected:
            return
        except Exception as error:
            self._dataplane.rejected(error)
            log_failure(error, scope["path"])
            response = _error(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR)
        headers = [
            (b"content-type", response.content_type),
            (b"content-length", str(len(response.body)).encode()),
            *response.headers,
        ]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})
        if response.answered_at is not None:
            self._dataplane.record_written(self._now() - response.answered_at)

    async def _dispatch(self, scope: Scope, receive: Receive) -> Response:
        path, method = scope["path"], scope["method"]
        if method == "HEAD":  # the server omits the body
            method = "GET"
        allowed: dict[str, None] = {}
        for route_method, pattern, handler in ROUTES:
            match = pattern.fullmatch(path)
            if match and route_method == method:
                return await handler(self, scope, receive, **match.groupdict())
            if match:
                allowed |= dict.fromkeys(["GET", "HEAD"] if route_method == "GET" else ["POST"])
        if allowed:
            allow = ", ".join(allowed)
            text = f"{path!r:.200} accepts {allow}, not {method:.20}"
            return _error(
                HTTPStatus.METHOD_NOT_ALLOWED, text, headers=((b"allow", allow.encode()),)
            )
        return _error(HTTPStatus.NOT_FOUND, f"no route matches {path!r:.200}; see GET /v2")

    async def infer(
        self, scope: Scope, receive: Receive, model: str, variant: str | None
    ) -> Response:
        """POST .../infer: run the model on the tensors of the request."""
        received = scope.get("arrived") or self._now()
        request_headers = dict(scope["headers"])
        try:
            if self._check_inference is not None:
                self._check_inference(_caller(scope, request_headers))
            body = await read_body(request_headers, receive, self._max_body_bytes)
            json_length = _json_length(request_headers)
        except ServingError as error:
            self._dataplane.rejected(error)
            raise
        try:
            request = parse_request(body, json_length, self._dataplane.model.inputs)
        except ServingError as error:
            self._inference.reject(model, variant, error)
            raise
        response = await self._inference.answer(
            model,
            variant,
            request,
            _metadata(request_headers),
            received,
            waited_s=scope.get("waited", 0.0),
        )
        answered_at = self._now()
        content, json_length = render_response(response, request.outputs, request.binary_output)
        content_type, headers = JSON, []
        if json_length is not None:
            content_type = BINARY
            headers.append((JSON_LENGTH, str(json_length).encode()))
        # Other routes are not compressed: tritonclient always sends Accept-Encoding, but
        # decompresses only inference responses.
        content, coding = compress(content, request_headers.get(b"accept-encoding"))
        if coding is not None:
            headers += [(b"content-encoding", coding), (b"vary", b"accept-encoding")]
        return Response(content, content_type, headers=headers, answered_at=answered_at)

    async def live(self, scope: Scope, receive: Receive) -> Response:
        """GET /v2/health/live: whether the process runs."""
        return _json({"live": True})

    async def ready(self, scope: Scope, receive: Receive) -> Response:
        """GET /v2/health/ready: whether the service is ready for requests."""
        is_ready = self._dataplane.is_ready
        return _json({"ready": is_ready, "live": True}, _ready_status(is_ready))

    async def healthz(self, scope: Scope, receive: Receive) -> Response:
        """GET /-/healthz: the readiness probe that KubeRay sends to each pod with traffic."""
        if not self._dataplane.is_ready:
            raise NotReady("the service is starting or stopping")
        return Response(b"success", b"text/plain; charset=utf-8")

    async def server(self, scope: Scope, receive: Receive) -> Response:
        """GET /v2: the metadata of the server."""
        return _json(self._documents.server())

    async def models(self, scope: Scope, receive: Receive) -> Response:
        """GET /v2/models: the names of the models."""
        return _json(self._documents.models())

    async def model(
        self, scope: Scope, receive: Receive, model: str, variant: str | None
    ) -> Response:
        """GET /v2/models/M and .../versions/V: the metadata of the model."""
        return _json(self._documents.model(model, variant))

    async def model_ready(
        self, scope: Scope, receive: Receive, model: str, variant: str | None
    ) -> Response:
        """GET .../ready: whether the model, or one variant, is ready."""
        is_ready = self._documents.is_ready(model, variant)
        return _json({"name": model, "ready": is_ready}, _ready_status(is_ready))

    async def config(
        self, scope: Scope, receive: Receive, model: str, variant: str | None
    ) -> Response:
        """GET .../config: the configuration of the model, in the format of Triton."""
        return _json(self._documents.config(model, variant))

    async def statistics(
        self, scope: Scope, receive: Receive, model: str | None = None, variant: str | None = None
    ) -> Response:
        """GET .../stats: the statistics since the gateway started."""
        return _json(self._documents.statistics(model, variant))

    async def index(self, scope: Scope, receive: Receive) -> Response:
        """POST /v2/repository/index: the variants and whether each is ready."""
        body = await read_body(dict(scope["headers"]), receive, INDEX_BYTES, INDEX_ADVICE)
        only_ready = _only_ready(body)
        unloaded: Mapping[str, str] = {}
        if self._control is not None and not only_ready:
            unloaded = await self._control.repository.unloaded()
        return _json(self._documents.index(only_ready=only_ready, unloaded=unloaded))

    async def load(self, scope: Scope, receive: Receive, model: str) -> Response:
        """POST .../load: add the variant of this name."""
        headers = dict(scope["headers"])
        control = self._require_control()
        actor = control.repository.authorize(_caller(scope, headers))
        body = await read_body(headers, receive, control.max_body_bytes, LOAD_ADVICE)
        await control.repository.load(model, _parameters(body), actor)
        return _json({})

    async def unload(self, scope: Scope, receive: Receive, model: str) -> Response:
        """POST .../unload: remove the variant of this name."""
        headers = dict(scope["headers"])
        control = self._require_control()
        actor = control.repository.authorize(_caller(scope, headers))
        _parameters(await read_body(headers, receive, control.max_body_bytes, UNLOAD_ADVICE))
        await control.repository.unload(model, actor)
        return _json({})

    def _require_control(self) -> Control:
        if self._control is None:
            raise Unsupported(NO_REPOSITORY)
        return self._control

    async def openapi(self, scope: Scope, receive: Receive) -> Response:
        """GET /openapi.json: the OpenAPI document of this service."""
        return Response(self._openapi(tuple(self._dataplane.profiles)))

    async def explorer(self, scope: Scope, receive: Receive) -> Response:
        """GET /docs: a page on which the API can be tried."""
        return Response(EXPLORER.read_bytes(), HTML)

    async def metrics(self, scope: Scope, receive: Receive) -> Response:
        """GET /metrics: the metrics, in the format of Prometheus."""
        return Response(generate_latest(self._registry), CONTENT_TYPE_LATEST.encode())


def _openapi(
    dataplane: DataPlane,
    documents: Documents,
    max_body_bytes: int,
    control: Control | None,
    variants: Sequence[str],
) -> bytes:
    document = openapi_document(
        dataplane.model,
        variants,
        version=documents.version,
        max_batch=dataplane.max_batch,
        max_body_bytes=max_body_bytes,
    )
    if control is not None:
        control.extend_openapi(document)
    return orjson.dumps(document)


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
    """Return the headers that can state an SLO or an experiment unit: they all begin with x-."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in headers.items()
        if name.startswith(b"x-")
    }


def _caller(scope: Scope, headers: Mapping[bytes, bytes]) -> Caller:
    authorization = headers.get(AUTHORIZATION.encode())
    client = scope.get("client")
    return Caller(
        None if authorization is None else authorization.decode("latin-1"),
        client[0] if client else "",
    )


def _only_ready(body: bytes) -> bool:
    """Return whether a request for the repository index asks for ready variants only."""
    document = _object(body)
    only_ready = None if document is None else document.get("ready", False)
    if not isinstance(only_ready, bool):
        raise InvalidRequest('the body must be a JSON object whose "ready" is true or false')
    return only_ready


def _parameters(body: bytes) -> Mapping[str, Any]:
    """Return the parameters of a request to load or unload a variant."""
    document = _object(body)
    parameters = None if document is None else document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequest('the body must be a JSON object whose "parameters" are an object')
    return parameters


def _object(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a body, an empty one if there is no body; None for other JSON."""
    try:
        document = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    return document if isinstance(document, dict) else None


def _ready_status(is_ready: bool) -> int:
    return HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE


def _json(document: Any, status: int = HTTPStatus.OK) -> Response:
    return Response(orjson.dumps(document), status=status)


def _error(
    status: int, text: str, request_id: str | None = None, headers: Headers = ()
) -> Response:
    # A lone surrogate from a path or a name cannot be encoded: it is replaced.
    document = {"error": text.encode("utf-8", "replace").decode()}
    if request_id is not None:
        document["id"] = request_id
    return Response(orjson.dumps(document), status=status, headers=headers)


def _error_response(error: ServingError) -> Response:
    headers: Headers = ()
    if isinstance(error, Overloaded):
        headers = ((b"retry-after", str(max(1, ceil(error.retry_after_s))).encode()),)
    if isinstance(error, Unauthorized):
        headers = ((b"www-authenticate", CHALLENGE.encode()),)
    return _error(STATUS[type(error)].http, str(error), error.request_id, headers)


_MODEL: Final = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<variant>[^/]+))?"

ROUTES: Final[tuple[tuple[str, re.Pattern[str], Callable[..., Awaitable[Response]]], ...]] = (
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
    ("POST", re.compile("/v2/repository/models/(?P<model>[^/]+)/load"), HttpProtocol.load),
    ("POST", re.compile("/v2/repository/models/(?P<model>[^/]+)/unload"), HttpProtocol.unload),
)
