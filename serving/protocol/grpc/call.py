"""Parsing of messages and metadata, and translation of errors, for every RPC.

Handlers take bytes, because grpc would answer messages that it cannot parse with UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import ceil
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from serving.errors import STATUS, InvalidRequest, ServingError
from serving.protocol.control import AUTHORIZATION, Caller
from serving.protocol.failure import INTERNAL_ERROR, log_failure
from serving.protocol.repeated import join_repeated

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
Services: TypeAlias = dict[str, dict[str, Handler]]
"""Handlers by name of the service and name of the RPC."""

SERVICE: Final = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
"""Name of the service of the protocol."""

RETRY_AFTER: Final = "grpc-retry-pushback-ms"
"""Key of the trailing metadata: milliseconds after which to retry."""

REQUEST_ID: Final = "request-id"
"""Key of the trailing metadata: the id of the failed request."""

MAX_DETAILS_BYTES: Final = 2_000
"""Maximum length of an error message. It is percent-encoded, and clients accept 8 KiB of
metadata."""

MAX_ID_LENGTH: Final = 200
"""Maximum length of a request id that an error repeats, in characters."""


def parse_message(message: Any, raw: bytes) -> Any:
    """Parse a protobuf message of this type. Raises `InvalidRequest`."""
    try:
        return message.FromString(raw)
    except DecodeError:
        name = message.DESCRIPTOR.full_name
        raise InvalidRequest(f"the message is not a valid {name}") from None


def read_metadata(context: Context) -> dict[str, str]:
    """Return the metadata of a call that are text. Raises `InvalidRequest`."""
    metadata = context.invocation_metadata() or ()
    return join_repeated((name, value) for name, value in metadata if isinstance(value, str))


def caller(context: Context) -> Caller:
    """Return who makes a call. Raises `InvalidRequest`."""
    transport, _, rest = str(context.peer()).partition(":")
    address = rest.rpartition(":")[0] if transport in ("ipv4", "ipv6") else rest
    return Caller(read_metadata(context).get(AUTHORIZATION), unquote(address).strip("[]"))


def unary(
    path: str,
    message: Any,
    handle: Callable[[Any, Context], Awaitable[Any]],
) -> Handler:
    """Return the grpc handler of the unary RPC at `path`, whose requests are of type `message`.

    `handle` takes the request and returns the response; it may raise anything.
    """

    async def handle_bytes(raw: bytes, context: Context) -> bytes:
        return await answer(raw, context, path, message, handle)

    return grpc.unary_unary_rpc_method_handler(handle_bytes)


async def answer(
    raw: bytes,
    context: Context,
    path: str,
    message: Any,
    handle: Callable[[Any, Context], Awaitable[Any]],
    count_rejected: Callable[[Exception], None] = lambda error: None,
) -> bytes:
    """Parse the request of a unary call, and return the response of `handle`, or set the status.

    `count_rejected` is called with parse errors and with exceptions of `handle` other than
    `ServingError`.
    """
    failed: Exception
    try:
        request = parse_message(message, raw)
    except InvalidRequest as error:
        count_rejected(error)
        failed = error
    else:
        try:
            response: bytes = (await handle(request, context)).SerializeToString()
            return response
        except ServingError as error:
            failed = error
        except Exception as error:
            count_rejected(error)
            failed = error
    fail(failed, path, context)
    del failed  # breaks a reference cycle with this frame, which would keep the message alive
    return b""  # grpc sends the status instead


def client_message(error: Exception) -> str:
    """Return the message of an error that the client gets."""
    text = str(error) if isinstance(error, ServingError) else INTERNAL_ERROR
    # Lone surrogates and a character cut off at the end cannot be encoded.
    return text.encode("utf-8", "replace")[:MAX_DETAILS_BYTES].decode("utf-8", "ignore")


def fail(error: Exception, path: str, context: Context) -> None:
    """Set the status of a failed call, and log the error. The handler must return afterwards.

    `context.abort` is not used: its exception would keep the frames, and thereby the message, alive
    until the next garbage collection.
    """
    log_failure(error, path, route=path)
    status = grpc.StatusCode.INTERNAL
    trailing: list[tuple[str, str]] = []
    if isinstance(error, ServingError):
        status = grpc.StatusCode[STATUS[type(error)].grpc]
        request_id = error.request_id or ""
        if (
            request_id.isascii()
            and request_id.isprintable()
            and 0 < len(request_id) <= MAX_ID_LENGTH
        ):
            trailing.append((REQUEST_ID, request_id))
    if isinstance(error, ServingError) and error.retry_after_s is not None:
        trailing.append((RETRY_AFTER, str(max(1, ceil(error.retry_after_s * 1e3)))))
    context.set_code(status)
    context.set_details(client_message(error))
    context.set_trailing_metadata(tuple(trailing))
