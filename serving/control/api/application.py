"""The admin API over HTTP: the application that answers `/v2/admin/*`.

It authorizes, parses, delegates to `Overview` or `VariantService` on threads, and renders. Reading
needs a token of any scope, and changing one of the scope `admin`. The table of routes is at the end
of the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from math import ceil
from typing import Any, Final, TypeAlias

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.control.api.bodies import (
    Addition,
    Publication,
    Replacement,
    Rollback,
    flag,
    integer,
    parse_body,
    reason,
)
from serving.control.api.events import Streams
from serving.control.api.overview import Overview
from serving.control.api.service import VariantService
from serving.control.api.threads import BlockingCalls
from serving.control.api.views import Preview
from serving.control.state import Job, Scope
from serving.control.store.submissions import Origin
from serving.errors import STATUS, InvalidRequest, Overloaded, ServingError, Unauthorized
from serving.protocol.control import ADMIN, AUTHORIZATION, CHALLENGE, Caller
from serving.protocol.failure import INTERNAL_ERROR, log_failure
from serving.protocol.http.body import ClientDisconnected, read_body
from serving.protocol.http.fields import read_fields
from serving.protocol.repeated import IDEMPOTENCY_KEY
from variants.catalog.record import Record

Authorize: TypeAlias = Callable[[Caller, Scope], str]
"""Returns the name of the caller's token. Raises `Unauthorized`, `Forbidden` or `Overloaded`."""

ADVICE: Final = "send a shorter recipe, or put it into the project file and send its name"
"""What helps against a body that is too large."""

MAX_KEY_LENGTH: Final = 200
LARGEST: Final = 2**63 - 1


class AdminApplication:
    """An ASGI application."""

    def __init__(
        self,
        service: VariantService,
        overview: Overview,
        authorize: Authorize,
        call: BlockingCalls,
        streams: Streams,
        *,
        max_body_bytes: int,
    ) -> None:
        self._service = service
        self._overview = overview
        self._authorize = authorize
        self._call = call
        self._streams = streams
        self._max_body_bytes = max_body_bytes
        self._app = Starlette(
            routes=[
                Route(ADMIN + path, partial(self._answer, handlers), methods=list(handlers))
                for path, handlers in ROUTES.items()
            ],
            exception_handlers={HTTPException: _no_route},
        )
        self._app.router.redirect_slashes = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        await self._app(scope, receive, send)

    async def _answer(self, handlers: Mapping[str, Handler], request: Request) -> Response:
        """Call the handler of a route and translate its errors."""
        path = request.url.path
        handler = handlers["GET" if request.method == "HEAD" else request.method]
        try:
            return await handler(self, request)
        except ServingError as error:
            log_failure(error, path, route=ADMIN)
            return _error_response(error)
        except ClientDisconnected:
            return Response()  # not sent
        except Exception as error:
            log_failure(error, path, route=ADMIN)
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR)

    # Reading

    async def variants(self, request: Request) -> Response:
        """GET /v2/admin/variants: all variants."""
        self._actor(request, "read")
        return _record(await self._call(self._overview.variants))

    async def variant(self, request: Request) -> Response:
        """GET /v2/admin/variants/NAME: one variant."""
        self._actor(request, "read")
        return _record(await self._call(self._overview.variant, request.path_params["name"]))

    async def jobs(self, request: Request) -> Response:
        """GET /v2/admin/jobs: jobs, newest first."""
        self._actor(request, "read")
        query = request.query_params
        active, limit = flag(query, "active"), integer(query, "limit", 50, 1, 200)
        return _record(await self._call(self._overview.jobs, active_only=active, limit=limit))

    async def job(self, request: Request) -> Response:
        """GET /v2/admin/jobs/JOB: one job."""
        self._actor(request, "read")
        return _record(await self._call(self._overview.job, request.path_params["job"]))

    async def log(self, request: Request) -> Response:
        """GET /v2/admin/jobs/JOB/log: lines of its log."""
        self._actor(request, "read")
        after = integer(request.query_params, "after", 0, 0, LARGEST)
        return _record(await self._call(self._overview.log, request.path_params["job"], after))

    async def events(self, request: Request) -> Response:
        """GET /v2/admin/jobs/JOB/events: the job and its log as server-sent events."""
        self._actor(request, "read")
        last = request.headers.get("last-event-id", "")
        # An identifier that is not one of this stream is ignored: the log begins at its start.
        after = int(last) if last.isascii() and last.isdigit() and len(last) < 19 else 0
        return await self._streams.response(request.path_params["job"], after)

    async def history(self, request: Request) -> Response:
        """GET /v2/admin/history: who did what, newest first."""
        self._actor(request, "read")
        query = request.query_params
        limit = integer(query, "limit", 50, 1, 200)
        before = integer(query, "before", 0, 1, LARGEST) or None
        return _record(await self._call(self._overview.history, limit=limit, before=before))

    # Changing

    async def add(self, request: Request) -> Response:
        """POST /v2/admin/variants: add a variant."""
        origin, body = await self._change(request)
        parsed = parse_body(Addition, body)
        return await self._submit(origin, self._service.add, parsed, origin)

    async def replace(self, request: Request) -> Response:
        """POST /v2/admin/variants/NAME/replace: make a new generation."""
        origin, body = await self._change(request)
        name, parsed = request.path_params["name"], parse_body(Replacement, body)
        return await self._submit(origin, self._service.replace, name, parsed, origin)

    async def rollback(self, request: Request) -> Response:
        """POST /v2/admin/variants/NAME/rollback: publish a former generation."""
        origin, body = await self._change(request)
        name, parsed = request.path_params["name"], parse_body(Rollback, body)
        return await self._submit(origin, self._service.roll_back, name, parsed, origin)

    async def publish(self, request: Request) -> Response:
        """POST /v2/admin/variants/NAME/publish: publish a generation by hand."""
        origin, body = await self._change(request)
        name, parsed = request.path_params["name"], parse_body(Publication, body)
        return await self._submit(origin, self._service.publish, name, parsed, origin)

    async def remove(self, request: Request) -> Response:
        """DELETE /v2/admin/variants/NAME: remove a variant."""
        origin, _ = await self._change(request)
        query = request.query_params
        force, why = flag(query, "force"), reason(query)
        remove = partial(self._service.remove, force=force, reason=why)
        name, meeting_slo = request.path_params["name"], self._service.meeting_slo()
        return await self._submit(origin, remove, name, origin, meeting_slo)

    async def cancel(self, request: Request) -> Response:
        """POST /v2/admin/jobs/JOB/cancel: cancel a job."""
        origin, _ = await self._change(request)
        job = await self._call(self._service.cancel, request.path_params["job"], origin.actor)
        return _accepted(job)

    def _actor(self, request: Request, scope: Scope) -> str:
        return self._authorize(caller_of(request), scope)

    async def _change(self, request: Request) -> tuple[Origin, bytes]:
        """Authorize a request that changes something; return who sends it, and its body."""
        actor = self._actor(request, "admin")
        key = request.headers.get(IDEMPOTENCY_KEY)
        if key is not None and not (
            0 < len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()
        ):
            raise InvalidRequest(
                f"the header Idempotency-Key must have 1 to {MAX_KEY_LENGTH} printable characters"
            )
        headers = read_fields(request.scope["headers"], request.scope["http_version"])
        body = await read_body(headers, request.receive, self._max_body_bytes, ADVICE)
        what = f"{request.method} {request.url.path}?{request.url.query}\n".encode()
        return Origin(actor, key, hashlib.sha256(what + body).hexdigest()), body

    async def _submit(
        self, origin: Origin, submit: Callable[..., Job | Preview], *arguments: Any
    ) -> Response:
        """Submit a job, unless it was submitted by an earlier request with the same key."""
        earlier = await self._call(self._service.submitted, origin)
        if earlier is not None:
            return _accepted(earlier)
        result = await self._call(submit, *arguments)
        return _accepted(result) if isinstance(result, Job) else _record(result)


def caller_of(request: Request) -> Caller:
    """Return who sent a request."""
    address = request.client.host if request.client else ""
    return Caller(request.headers.get(AUTHORIZATION), address)


def _accepted(job: Job) -> Response:
    location = {"location": f"{ADMIN}/jobs/{job.id}"}
    return _record(job, HTTPStatus.ACCEPTED, location)


def _record(
    record: Record, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    content = record.model_dump_json().encode()
    return Response(content, status, headers, media_type="application/json")


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    # A lone surrogate from a path or a name cannot be encoded: it is replaced.
    content = orjson.dumps({"error": text.encode("utf-8", "replace").decode()})
    return Response(content, status, headers, media_type="application/json")


def _error_response(error: ServingError) -> Response:
    headers = {}
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = CHALLENGE
    if isinstance(error, Overloaded):
        headers["retry-after"] = str(max(1, ceil(error.retry_after_s)))
    return _error(STATUS[type(error)].http, str(error), headers)


async def _no_route(request: Request, error: Exception) -> Response:
    """Answer a request that Starlette has rejected: an unknown path, or another method."""
    assert isinstance(error, HTTPException)
    path = f"{request.url.path!r:.200}"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        text = f"{path} accepts {allowed}, not {request.method:.20}"
        return _error(error.status_code, text, {"allow": allowed})
    return _error(error.status_code, f"no route matches {path}; see /openapi.json")


Handler: TypeAlias = Callable[[AdminApplication, Request], Awaitable[Response]]

ROUTES: Final[Mapping[str, Mapping[str, Handler]]] = {
    "/variants": {"GET": AdminApplication.variants, "POST": AdminApplication.add},
    "/variants/{name}": {"GET": AdminApplication.variant, "DELETE": AdminApplication.remove},
    "/variants/{name}/replace": {"POST": AdminApplication.replace},
    "/variants/{name}/rollback": {"POST": AdminApplication.rollback},
    "/variants/{name}/publish": {"POST": AdminApplication.publish},
    "/jobs": {"GET": AdminApplication.jobs},
    "/jobs/{job}": {"GET": AdminApplication.job},
    "/jobs/{job}/log": {"GET": AdminApplication.log},
    "/jobs/{job}/events": {"GET": AdminApplication.events},
    "/jobs/{job}/cancel": {"POST": AdminApplication.cancel},
    "/history": {"GET": AdminApplication.history},
}
"""Handlers by path below `/v2/admin` and by method."""
