"""A client of the admin API, on the standard library."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import click

from serving.control.settings import FOLDER
from serving.control.state import ENDED
from serving.control.tokens import FILE

TOKEN_VARIABLE: Final = "PARETOSERVE_TOKEN"
TOKEN_FILE: Final = Path(FOLDER) / FILE
"""Path of the token that a service makes, in the folder of its catalog."""

TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.3

LOST_S: Final = 60.0
"""Seconds without a response, for example while the service restarts, after which to give up."""

_RETRIED: Final = (429, 503)


class Refused(click.ClickException):
    """The service refused a request; the message is the one of the service."""

    exit_code = 2

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(click.ClickException):
    """The service does not answer."""

    exit_code = 2


def read_token(token_file: Path | None, catalog: Path) -> str:
    """Return the token from a file, the environment, or the catalog of a service on this machine.

    Raises `click.UsageError` if there is none.
    """
    if token_file is not None:
        return token_file.read_text().strip()
    if token := os.environ.get(TOKEN_VARIABLE):
        return token.strip()
    made = catalog / TOKEN_FILE
    try:
        return made.read_text().strip()
    except FileNotFoundError:
        raise click.UsageError(
            f"no token: give --token-file, set {TOKEN_VARIABLE}, or name the folder of the "
            f"service's catalog with --catalog. A service writes its token to {made}"
        ) from None
    except PermissionError:
        raise click.UsageError(
            f"{made} can be read by the user of the service only: give --token-file or set "
            f"{TOKEN_VARIABLE}"
        ) from None


class AdminClient:
    """Sends requests to one service."""

    def __init__(self, url: str, token: str) -> None:
        """Raises `click.UsageError` if the URL or the token cannot be right."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise click.UsageError(f"--url must be like http://127.0.0.1:8000, got {url!r}")
        if not token or not token.isascii() or not token.isprintable():
            raise click.UsageError("the token must be one line of printable ASCII")
        self._url = url
        self._is_tls = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._prefix = parts.path.rstrip("/")
        self._token = token

    def get(self, *path: str, **query: object) -> Any:
        """Return the document at a path below `/v2/admin`. Raises `Refused`, `Unreachable`."""
        return self._send("GET", path, query)

    def post(
        self, *path: str, body: Mapping[str, object] | None = None, key: str | None = None
    ) -> Any:
        """Post a body; return the response. `key` is the idempotency key. Raises as `get` does."""
        return self._send("POST", path, {}, body or {}, key)

    def delete(self, *path: str, key: str | None = None, **query: object) -> Any:
        """Delete what is at a path; return the response. See `post`."""
        return self._send("DELETE", path, query, None, key)

    def follow(self, job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the job now and whenever it is looked at, until it has ended."""
        current = dict(job)
        yield current
        while current["status"] not in ENDED:
            time.sleep(POLL_S)
            current = self._send("GET", ("jobs", current["id"]), {}, is_patient=True)
            yield current

    def _send(
        self,
        method: str,
        path: tuple[str, ...],
        query: Mapping[str, object],
        body: Mapping[str, object] | None = None,
        key: str | None = None,
        *,
        is_patient: bool = False,
    ) -> Any:
        """Send a request; if `is_patient`, repeat it while the service is unreachable."""
        deadline = time.monotonic() + LOST_S
        while True:
            try:
                return self._send_once(method, path, query, body, key)
            except (Unreachable, Refused) as error:
                is_lost = isinstance(error, Unreachable) or error.status in _RETRIED
                if not (is_lost and is_patient) or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)

    def _send_once(
        self,
        method: str,
        path: tuple[str, ...],
        query: Mapping[str, object],
        body: Mapping[str, object] | None,
        key: str | None,
    ) -> Any:
        target = self._prefix + "/v2/admin/" + "/".join(quote(part, safe="") for part in path)
        given = {name: _text(value) for name, value in query.items() if value is not None}
        if given:
            target += "?" + urlencode(given)
        headers = {"Authorization": f"Bearer {self._token}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        content = None if body is None else json.dumps(body).encode()
        kind = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, target, content, headers)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            cause = str(error) or type(error).__name__
            raise Unreachable(
                f"{self._url} does not answer: {cause}; is the service running there?"
            ) from None
        finally:
            connection.close()
        return _document(self._url, response.status, text)


def _document(url: str, status: int, text: bytes) -> Any:
    try:
        document = json.loads(text)
    except ValueError:
        raise Refused(status, f"{url} is not a Paretoserve service: HTTP {status}") from None
    if status < 400:
        return document
    message = document.get("error") if isinstance(document, dict) else None
    raise Refused(status, str(message or f"HTTP {status}"))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
