"""Reads the requests of one connection, with httptools.

    bytes ─▶ parser ─▶ head: `begin` ─▶ body: `exchange.add_body` ─▶ end: `on_end`

A head that is too large, and what is not HTTP, is rejected. An offer to upgrade is ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus

import httptools

from serving.protocol.failure import INTERNAL_ERROR
from serving.protocol.http.exchange import Exchange
from serving.protocol.http.fields import read_fields
from serving.protocol.http.head import Headers, RequestHead
from serving.protocol.http.upgrade import strip_upgrade

logger = logging.getLogger(__name__)


class ParsingStopped(Exception):
    """Raised in a callback of the parser to stop it."""


class RequestReader:
    """Reads one request after the other, and gives their bodies to their exchanges."""

    def __init__(
        self,
        max_header_bytes: int,
        begin: Callable[[bytes], None],
        on_end: Callable[[Exchange], None],
        reject: Callable[[HTTPStatus, str], None],
    ) -> None:
        """`begin` is called with the method once a head has been read: it calls `read_head` and
        sets `exchange`, or raises `ParsingStopped`. `on_end` is called at the end of the body.
        `reject` sends an error response for the request that is being read.
        """
        self._max_header_bytes = max_header_bytes
        self._begin = begin
        self._on_end = on_end
        self._reject = reject
        self._parser = self._new_parser()
        self.exchange: Exchange | None = None
        """The request whose body is being read; its response may have been sent already. Without
        one, the rest of a body is ignored."""
        self.is_in_message = False
        """Whether a request has begun and has not been read to its end."""
        self.is_head_new = False
        """Whether the first byte of the request was in the last read."""
        self.target = b""
        """The target of the request, as far as it has been read."""
        self._headers: Headers = []
        self._expects_continue = False
        self._head_without_upgrade = b""
        self._unparsed_bytes = 0
        """Bytes read since the last complete head, complete message or part of a body."""
        self._head_bound_bytes = 0
        """Upper bound of the head being read: all bytes since a read ended with a message."""

    def feed(self, data: bytes) -> bool:
        """Read the bytes of one read. Return False if nothing that follows can be read."""
        self.is_head_new = False
        self._unparsed_bytes += len(data)
        self._head_bound_bytes += len(data)
        rest: bytes | memoryview = data
        try:
            while True:
                try:
                    self._parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as upgrade:
                    rest = memoryview(rest)[upgrade.args[0] :]
                self._ignore_upgrade()
        except httptools.HttpParserCallbackError as fault:
            self._stop(fault.__context__)
            return False
        except httptools.HttpParserError:
            self._reject(HTTPStatus.BAD_REQUEST, "the request is not valid HTTP/1.1")
            return False
        if not self.is_in_message:  # complete, or only empty lines, which the parser skips
            self._unparsed_bytes = self._head_bound_bytes = 0
        elif self._unparsed_bytes > self._max_header_bytes:
            self._reject_large_head()
        return True

    def read_head(
        self, method: bytes, client: tuple[str, int] | None, arrived: float
    ) -> RequestHead:
        """Return the head that has been read. Raises a leaf of `ServingError` for its headers."""
        version = self._parser.get_http_version()
        fields = read_fields(self._headers, version)
        return RequestHead(
            method,
            self.target,
            version,
            self._headers,
            fields,
            version != "1.0" and self._parser.should_keep_alive(),
            self._expects_continue and version != "1.0",
            client,
            arrived,
        )

    def _ignore_upgrade(self) -> None:
        # A server may ignore an offer to upgrade (RFC 9110, section 7.8). The parser would read
        # the body as the new protocol, so a new parser gets the head without these headers.
        self._parser = self._new_parser()
        self._parser.feed_data(self._head_without_upgrade)

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # The last request of a connection may be followed by others, which are ignored.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _stop(self, cause: BaseException | None) -> None:
        """Reject a request if an error of this service stopped the parser."""
        if not isinstance(cause, ParsingStopped):
            logger.error("a request could not be read", exc_info=cause)
            self._reject(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR)

    # Called by the parser.

    def on_message_begin(self) -> None:
        """The first byte of a request line was read."""
        self.is_in_message = self.is_head_new = True
        self.target = b""
        self._headers = []
        self._expects_continue = False

    def on_url(self, url: bytes) -> None:
        """A part of the request target was read."""
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header was read, or a trailer, which is ignored."""
        if self.exchange is not None:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head was read."""
        # Measuring the head takes time, so it is done only if the reads exceed the limit.
        if (
            self._head_bound_bytes > self._max_header_bytes
            and self._head_bytes() > self._max_header_bytes
        ):
            self._reject_large_head()
            raise ParsingStopped
        self._unparsed_bytes = 0
        parser = self._parser
        method = parser.get_method()
        if parser.should_upgrade():
            if method == b"CONNECT":
                text = "CONNECT is not allowed: this server is not a proxy"
                self._reject(HTTPStatus.METHOD_NOT_ALLOWED, text)
                raise ParsingStopped
            self._head_without_upgrade = strip_upgrade(
                method, self.target, parser.get_http_version(), self._headers
            )
            return
        self._begin(method)

    def on_body(self, body: bytes) -> None:
        """A part of the body was read."""
        self._unparsed_bytes = 0
        if self.exchange is not None:
            self.exchange.add_body(body)

    def on_message_complete(self) -> None:
        """The request was read."""
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return  # the end of a head that offers to upgrade
        self._unparsed_bytes = 0
        self.is_in_message = False
        self._on_end(exchange)

    def _head_bytes(self) -> int:
        # Each line ends with two bytes, and two bytes separate the name of a header from its value.
        return len(self.target) + sum(len(name) + len(value) + 4 for name, value in self._headers)

    def _reject_large_head(self) -> None:
        self._reject(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"the request line and headers are larger than {self._max_header_bytes} bytes; "
            "send fewer or shorter headers",
        )
