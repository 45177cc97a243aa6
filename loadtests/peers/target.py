"""One measured server: how it is started, what it is sent, and what its answers must be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Final, TypeAlias

import numpy as np

from loadtests.peers.exchange import Exchange, Logits

TOLERANCE: Final = 1e-4
"""Largest difference of a logit from onnxruntime's in this process."""
START_TIMEOUT_S: Final = 60.0
"""Time allowed to a server until its first answer, in seconds."""
POLL_S: Final = 0.2
REQUEST_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A request that is sent to a running server."""

    name: str
    exchange: Exchange
    expected: Mapping[str, Logits]
    """Correct logits by the variant that may answer."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that has been started on a port of 127.0.0.1."""

    port: int
    require_running: Callable[[], None]
    """Raises RuntimeError with the reason if the server has ended."""


Start: TypeAlias = Callable[[], AbstractContextManager[Running]]


@dataclass(frozen=True, slots=True)
class Target:
    """A server and the scenarios that are measured on it."""

    name: str
    start: Start
    scenarios: tuple[Scenario, ...]


def post(port: int, exchange: Exchange) -> tuple[int, bytes, Mapping[str, str]]:
    """Send a request once; return the status, the body and the headers with lower-case names.

    Raises OSError or HTTPException if the server does not answer.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=REQUEST_TIMEOUT_S)
    try:
        connection.request("POST", exchange.path, exchange.body, dict(exchange.headers))
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, response.read(), headers
    finally:
        connection.close()


def wait_until_ready(running: Running, scenario: Scenario) -> None:
    """Wait for a response with status 200.

    Raises RuntimeError with the last failure if the server ends or needs more than
    `START_TIMEOUT_S`.
    """
    give_up = time.monotonic() + START_TIMEOUT_S
    while True:
        running.require_running()
        try:
            status, body, _ = post(running.port, scenario.exchange)
            if status == 200:
                return
            failure = f"status {status}, {body[:200]!r}"
        except (OSError, HTTPException) as error:
            failure = str(error)
        if time.monotonic() > give_up:
            raise RuntimeError(f"no answer within {START_TIMEOUT_S:g} s; the last: {failure}")
        time.sleep(POLL_S)


def verify(running: Running, scenario: Scenario) -> None:
    """Send the request once and compare the logits, if the server computes any.

    Raises RuntimeError unless they are those of one of the variants that may answer.
    """
    status, body, headers = post(running.port, scenario.exchange)
    if status != 200:
        raise RuntimeError(f"status {status}: {body[:200]!r}")
    if scenario.exchange.decode is None:
        return
    try:
        logits = scenario.exchange.decode(body, headers)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise RuntimeError(f"unexpected response ({error!r}): {body[:200]!r}") from None
    if not any(is_equal(logits, expected) for expected in scenario.expected.values()):
        raise RuntimeError(f"wrong logits: {logits.tolist()}")


def is_equal(logits: Logits, expected: Logits) -> bool:
    """Return whether two rows of logits have one shape and differ by at most `TOLERANCE`."""
    return logits.shape == expected.shape and bool(np.abs(logits - expected).max() <= TOLERANCE)
