"""What a running service tells about itself, and how fast each of its variants answers now."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np

from loadtests.client import binary
from loadtests.closed_loop.classes import Probe

TIMEOUT_S: Final = 10.0
WARM_UP: Final = 3
PROBES: Final = 20


@dataclass(frozen=True)
class ServiceDescription:
    """A service that is ready, and the V2 metadata of its model."""

    url: str
    metadata: Mapping[str, Any]

    @property
    def path(self) -> str:
        """Where the model infers."""
        return f"/v2/models/{self.metadata['name']}/infer"


def connect(url: str, model: str = "") -> ServiceDescription:
    """Find the service at a URL; its model is its first where none is named.

    Raises `ValueError` that says what would help: nothing listens, not ready, no such model.
    """
    status, body, _ = _get(f"{url}/v2/health/ready")
    if status == 503:
        raise ValueError(f"the service at {url} is not ready yet; try again in some seconds")
    if status != 200:
        raise ValueError(f"what listens at {url} is no Paretoserve: its readiness is {status}")
    if not model:
        model = json.loads(_get(f"{url}/v2/models")[1])["models"][0]
    status, body, _ = _get(f"{url}/v2/models/{model}")
    if status != 200:
        raise ValueError(f"the service at {url} has no model {model!r}: {body.decode()[:200]}")
    return ServiceDescription(url, json.loads(body))


def probe(
    service: ServiceDescription,
    rounds: int = PROBES,
    on_round: Callable[[int], None] = lambda done: None,
) -> dict[str, Probe]:
    """Ask every variant a few times, in turns; the times are the gateway's own, as deadlines are.

    Raises `ValueError` if one does not answer.
    """
    requests = binary.random_requests(service.metadata, rounds + WARM_UP)
    seen: dict[str, list[Mapping[str, Any]]] = {name: [] for name in service.metadata["versions"]}
    for number, request in enumerate(requests):
        for variant, explanations in seen.items():
            url = f"{service.url}/v2/models/{service.metadata['name']}/versions/{variant}/infer"
            status, body, headers = _open(Request(url, request.body, dict(request.headers)))
            if status != 200:
                raise ValueError(f"variant {variant} does not answer: {status} {body[:200]!r}")
            explanations.append(
                binary.parse_explanation(body, headers.get(binary.JSON_LENGTH_HEADER.lower()))
            )
        on_round(number)
    return {
        variant: Probe(
            accuracy=float(explanations[-1]["accuracy"]),
            latency_ms=float(np.quantile([e["latency_ms"] for e in explanations[WARM_UP:]], 0.9)),
        )
        for variant, explanations in seen.items()
    }


def _get(url: str) -> tuple[int, bytes, Mapping[str, str]]:
    try:
        return _open(Request(url))
    except (URLError, OSError, HTTPException):
        raise ValueError(
            f"nothing answers at {url.removesuffix('/v2/health/ready')}: start the service with "
            "`make serve`, or name another with --url"
        ) from None


def _open(request: Request) -> tuple[int, bytes, Mapping[str, str]]:
    # No proxy of the environment's: it is the service that is measured.
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=TIMEOUT_S) as response:
            return response.status, response.read(), dict(response.headers)
    except HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)
