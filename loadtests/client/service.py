"""The metadata of a running service, and the current latency of each of its variants."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np

from loadtests.client import binary

TIMEOUT_S: Final = 10.0
"""Time-out of one request, in seconds."""
WARM_UP: Final = 3
"""Requests to each variant that are sent before its latency is measured."""
PROBES: Final = 20
"""Requests to each variant whose latency is measured."""


@dataclass(frozen=True)
class ServiceDescription:
    """The URL of a service that is ready, and the V2 metadata of its model."""

    url: str
    metadata: Mapping[str, Any]

    @property
    def path(self) -> str:
        """The path of inference requests."""
        return f"/v2/models/{self.metadata['name']}/infer"


@dataclass(frozen=True, slots=True)
class Probe:
    """The accuracy and the latency of one variant, measured with a few requests."""

    accuracy: float
    latency_ms: float


def connect(url: str, model: str = "") -> ServiceDescription:
    """Return the description of the service at a URL; the default model is its first one.

    Raises ValueError with a remedy if nothing listens at the URL, if the service is not ready, or
    if it has no such model.
    """
    status, body, _ = _get(f"{url}/v2/health/ready")
    if status == 503:
        raise ValueError(f"the service at {url} is not ready yet; retry in a few seconds")
    if status != 200:
        raise ValueError(
            f"the server at {url} is not Paretoserve: {url}/v2/health/ready returned {status}"
        )
    if not model:
        model = json.loads(_get(f"{url}/v2/models")[1])["models"][0]
    status, body, _ = _get(f"{url}/v2/models/{model}")
    if status != 200:
        raise ValueError(f"the service at {url} has no model {model!r}: {body.decode()[:200]}")
    return ServiceDescription(url, json.loads(body))


def probe(service: ServiceDescription, rounds: int = PROBES) -> dict[str, Probe]:
    """Measure every variant with a few requests, in turns.

    Latencies are those that the gateway reports, because deadlines are measured by its clock too.

    Raises ValueError if a request fails.
    """
    requests = binary.random_requests(service.metadata, rounds + WARM_UP)
    versions = service.metadata["versions"]
    explanations_of: dict[str, list[Mapping[str, Any]]] = {name: [] for name in versions}
    for request in requests:
        for variant, explanations in explanations_of.items():
            url = f"{service.url}/v2/models/{service.metadata['name']}/versions/{variant}/infer"
            status, body, headers = _open(Request(url, request.body, dict(request.headers)))
            if status != 200:
                raise ValueError(f"variant {variant} answered with {status}: {body[:200]!r}")
            explanations.append(
                binary.parse_explanation(body, headers.get(binary.JSON_LENGTH_HEADER.lower()))
            )
    return {
        variant: Probe(
            accuracy=float(explanations[-1]["accuracy"]),
            latency_ms=float(np.quantile([e["latency_ms"] for e in explanations[WARM_UP:]], 0.9)),
        )
        for variant, explanations in explanations_of.items()
    }


def _get(url: str) -> tuple[int, bytes, Mapping[str, str]]:
    try:
        return _open(Request(url))
    except (URLError, OSError, HTTPException):
        raise ValueError(
            f"no service answers at {url.removesuffix('/v2/health/ready')}: start the service with "
            "`make serve`, or name another with --url"
        ) from None


def _open(request: Request) -> tuple[int, bytes, Mapping[str, str]]:
    # Bypasses proxies of the environment, which would be measured too.
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=TIMEOUT_S) as response:
            return response.status, response.read(), dict(response.headers)
    except HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)
