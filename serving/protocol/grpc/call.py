"""What every RPC does around its own work: bytes to a message, and errors to a status.

grpc itself would parse before it calls a handler, and answer what it cannot parse with UNKNOWN.
So handlers take bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import ceil
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from serving.errors import STATUS, InvalidRequest, Overloaded, ServingError
from serving.protocol.failure import FAILED, log_failure

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
Services: TypeAlias = dict[str, dict[str, Handler]]
"""The handlers of every service, by its name and theirs."""

RETRY_AFTER: Final = "grpc-retry-pushback-ms"
REQUEST_ID: Final = "request-id"

MAX_DETAILS_BYTES: Final = 2_000
"""Details are percent-encoded, and clients take 8 KiB of metadata."""
MAX_ID_LENGTH: Final = 200


def parse_message(message: Any, raw: bytes) -> Any:
    """Read a protobuf message of this type. Raises `InvalidRequest`."""
    try:
        return message.FromString(raw)
    except DecodeError:
        name = message.DESCRIPTOR.full_name
        raise InvalidRequest(f"the bytes of the message are no valid {name}") from None


def unary(
    path: str,
    message: Any,
    answer: Callable[[Any, Context], Awaitable[Any]],
    rejected: Callable[[Exception], None] = lambda error: None,
) -> Handler:
    """Return the handler of an RPC at `path` that takes such a message and answers with another.

    `answer` may raise anything. `rejected` is told of what failed outside of it, or unforeseen.
    """

    async def handle(raw: bytes, context: Context) -> bytes:
        failed: Exception
        try:
            request = parse_message(message, raw)
        except InvalidRequest as error:
            rejected(error)
            failed = error
        else:
            try:
                reply: bytes = (await answer(request, context)).SerializeToString()
                return reply
            except ServingError as error:
                failed = error
            except Exception as error:
                rejected(error)
                failed = error
        fail(failed, path, context)
        del failed  # its traceback has this frame, and this frame the message
        return b""  # which is not sent

    return grpc.unary_unary_rpc_method_handler(handle)


def told(error: Exception) -> str:
    """Return what a client is told of an error."""
    text = str(error) if isinstance(error, ServingError) else FAILED
    # Half a surrogate pair, or half a character at the end, must not make the answer itself fail.
    return text.encode("utf-8", "replace")[:MAX_DETAILS_BYTES].decode("utf-8", "ignore")


def fail(error: Exception, path: str, context: Context) -> None:
    """Give a call that ends now the status of this error, and log it.

    Not by `context.abort`: its exception would keep the frames, and so the message, until the
    garbage collector comes by.
    """
    log_failure(error, path)
    status = grpc.StatusCode.INTERNAL
    trailing: list[tuple[str, str]] = []
    if isinstance(error, ServingError):
        status = grpc.StatusCode[STATUS[type(error)].grpc]
        name = error.request_id
        if name and name.isascii() and name.isprintable() and len(name) <= MAX_ID_LENGTH:
            trailing.append((REQUEST_ID, name))
    if isinstance(error, Overloaded):
        trailing.append((RETRY_AFTER, str(max(1, ceil(error.retry_after_s * 1e3)))))
    context.set_code(status)
    context.set_details(told(error))
    context.set_trailing_metadata(tuple(trailing))
