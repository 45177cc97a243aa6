"""All of the Open Inference Protocol V2 over HTTP but inference, as an ASGI application.

It parses requests, delegates them and renders responses; it makes no decision. The table of routes
is at the end of the file.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache, partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import orjson
from prometheus_client import CollectorRegistry

from serving.dataplane.dataplane import DataPlane
from serving.errors import (
    InvalidRequest,
    NotReady,
    ServingError,
    Unsupported,
)
from serving.protocol.control import (
    ADMIN,
    NO_REPOSITORY,
    Control,
)
from serving.protocol.documents import Document, Documents
from serving.protocol.failure import INTERNAL_ERROR, log_failure
from serving.protocol.http.body import ClientDisconnected, Receive, read_body
from serving.protocol.http.caller import read_caller
from serving.protocol.http.compression import NEVER, encode
from serving.protocol.http.exposition import expose
from serving.protocol.http.fields import read_fields
from serving.protocol.http.place import INFER_PATH, MODEL_PATH
from serving.protocol.http.response import HTML, Response, error_response, status_response
from serving.protocol.json_document import parse_json
from serving.protocol.openapi.document import openapi_document

Scope: TypeAlias = Mapping[str, Any]
Send: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[None]]

INDEX_BYTES: Final = 4096
"""Maximum size of the body of a request for the repository index."""
INDEX_ADVICE: Final = 'send no body, or {"ready": true}'
LOAD_ADVICE: Final = "send a shorter recipe as `config`, or the name of one in the project file"
UNLOAD_ADVICE: Final = "send no body"
EXPLORER: Final = Path(__file__).with_name("explorer.html")


class HttpProtocol:
    """The ASGI application of a gateway: all requests but those for inference."""

    def __init__(
        self,
        dataplane: DataPlane,
        documents: Documents,
        registry: CollectorRegistry,
        *,
        max_body_bytes: int,
        control: Control | None = None,
        example: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        """Without `control`, nothing about the variants can be changed.

        `max_body_bytes` is the limit of inference requests, and `example` the inputs of an example
        request, for the documents.
        """
        self._dataplane = dataplane
        self._documents = documents
        self._registry = registry
        self._control = control
        self._openapi = lru_cache(maxsize=1)(
            partial(_openapi, dataplane, documents, max_body_bytes, control, example)
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
            response = error_response(error)
        except ClientDisconnected:
            return
        except Exception as error:
            self._dataplane.rejected(error)
            log_failure(error, scope["path"])
            response = status_response(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR)
        response = encode(response, _fields(scope).get(b"accept-encoding"), NEVER)
        headers = [
            (b"content-type", response.content_type),
            (b"content-length", str(len(response.body)).encode()),
            *response.headers,
        ]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    async def _dispatch(self, scope: Scope, receive: Receive) -> Response:
        path, method = scope["path"], scope["method"]
        raw_path = scope["raw_path"].decode("ascii")  # an encoded / separates nothing
        if method == "HEAD":  # the server omits the body
            method = "GET"
        allowed: dict[str, None] = {}
        if INFER_PATH.fullmatch(raw_path):
            allowed["POST"] = None
        for route_method, pattern, handler in ROUTES:
            match = pattern.fullmatch(raw_path)
            if match and route_method == method:
                return await handler(self, scope, receive, **_decoded(match.groupdict()))
            if match:
                allowed |= dict.fromkeys(["GET", "HEAD"] if route_method == "GET" else ["POST"])
        if allowed:
            allow = ", ".join(allowed)
            text = f"{path!r:.200} accepts {allow}, not {method:.20}"
            return status_response(
                HTTPStatus.METHOD_NOT_ALLOWED, text, headers=((b"allow", allow.encode()),)
            )
        text = f"no route matches {path!r:.200}; see /docs in a browser, or GET /openapi.json"
        return status_response(HTTPStatus.NOT_FOUND, text)

    async def live(self, scope: Scope, receive: Receive) -> Response:
        """GET /v2/health/live: whether the process runs."""
        return _json({"live": True})

    async def ready(self, scope: Scope, receive: Receive) -> Response:
        """GET /v2/health/ready: whether the service is ready for requests."""
        return _readiness(self._documents.server_readiness())

    async def healthz(self, scope: Scope, receive: Receive) -> Response:
        """GET /-/healthz: the readiness probe that KubeRay sends to each pod with traffic."""
        if not self._dataplane.readiness.is_ready:
            raise NotReady(self._dataplane.readiness.unready_reason(None))
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
        return _readiness(self._documents.readiness(model, variant))

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
        body = await read_body(_fields(scope), receive, INDEX_BYTES, INDEX_ADVICE)
        only_ready = _only_ready(body)
        unloaded: Mapping[str, str] = {}
        if self._control is not None and not only_ready:
            unloaded = await self._control.repository.unloaded()
        return _json(self._documents.index(only_ready=only_ready, unloaded=unloaded))

    async def load(self, scope: Scope, receive: Receive, model: str) -> Response:
        """POST .../load: add the variant of this name."""
        headers = _fields(scope)
        control = self._require_control()
        actor = control.repository.authorize(read_caller(headers, scope["client"]))
        body = await read_body(headers, receive, control.max_body_bytes, LOAD_ADVICE)
        await control.repository.load(model, _parameters(body), actor)
        return _json({})

    async def unload(self, scope: Scope, receive: Receive, model: str) -> Response:
        """POST .../unload: remove the variant of this name."""
        headers = _fields(scope)
        control = self._require_control()
        actor = control.repository.authorize(read_caller(headers, scope["client"]))
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
        """GET /metrics: the metrics, as OpenMetrics or in the text format of Prometheus."""
        return expose(self._registry, _fields(scope).get(b"accept", b""))


def _openapi(
    dataplane: DataPlane,
    documents: Documents,
    max_body_bytes: int,
    control: Control | None,
    example: Sequence[dict[str, Any]] | None,
    variants: Sequence[str],
) -> bytes:
    document = openapi_document(
        dataplane.model,
        variants,
        version=documents.version,
        max_batch=dataplane.max_batch,
        max_body_bytes=max_body_bytes,
        inputs=example,
    )
    if control is not None:
        control.extend_openapi(document)
    return orjson.dumps(document)


def _fields(scope: Scope) -> Mapping[bytes, bytes]:
    return read_fields(scope["headers"], scope["http_version"])


def _decoded(parts: Mapping[str, str | None]) -> dict[str, str | None]:
    return {name: None if part is None else unquote(part) for name, part in parts.items()}


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
    document = parse_json(body) if body else {}
    return document if isinstance(document, dict) else None


def _readiness(document: Document) -> Response:
    status = HTTPStatus.OK if document["ready"] else HTTPStatus.SERVICE_UNAVAILABLE
    return _json(document, status)


def _json(document: Any, status: int = HTTPStatus.OK) -> Response:
    return Response(orjson.dumps(document), status=status)


ROUTES: Final[tuple[tuple[str, re.Pattern[str], Callable[..., Awaitable[Response]]], ...]] = (
    ("GET", re.compile("/metrics"), HttpProtocol.metrics),
    ("GET", re.compile("/-/healthz"), HttpProtocol.healthz),
    ("GET", re.compile("/v2/health/live"), HttpProtocol.live),
    ("GET", re.compile("/v2/health/ready"), HttpProtocol.ready),
    ("GET", re.compile("/v2/?"), HttpProtocol.server),
    ("GET", re.compile(r"/openapi\.json"), HttpProtocol.openapi),
    ("GET", re.compile("/docs"), HttpProtocol.explorer),
    ("GET", re.compile("/v2/models/?"), HttpProtocol.models),
    ("GET", re.compile("/v2/models/stats"), HttpProtocol.statistics),
    ("GET", re.compile(MODEL_PATH), HttpProtocol.model),
    ("GET", re.compile(MODEL_PATH + "/ready"), HttpProtocol.model_ready),
    ("GET", re.compile(MODEL_PATH + "/config"), HttpProtocol.config),
    ("GET", re.compile(MODEL_PATH + "/stats"), HttpProtocol.statistics),
    ("POST", re.compile("/v2/repository/index"), HttpProtocol.index),
    ("POST", re.compile("/v2/repository/models/(?P<model>[^/]+)/load"), HttpProtocol.load),
    ("POST", re.compile("/v2/repository/models/(?P<model>[^/]+)/unload"), HttpProtocol.unload),
)
