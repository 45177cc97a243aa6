"""A client of the admin API for benchmarks: submits jobs and waits for them."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

POLL_S: Final = 0.02
"""Interval, in seconds, at which a job is looked at: the precision of the measured times."""

TIMEOUT_S: Final = 30.0


@dataclass(frozen=True)
class Admin:
    """The admin API of the service at a URL."""

    url: str
    token: str

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send a request to a path below `/v2/admin`; return the JSON of the response.

        Raises RuntimeError with the service's message if it refuses the request.
        """
        request = Request(
            f"{self.url}/v2/admin{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self.token}"},
        )
        try:
            with urlopen(request, timeout=TIMEOUT_S) as response:
                return json.load(response)
        except HTTPError as error:
            raise RuntimeError(json.load(error)["error"]) from None

    def run(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Submit a job and return it once it is over; raise RuntimeError if it did not succeed."""
        job_id = self.call(method, path, body)["id"]
        while True:
            job: dict[str, Any] = self.call("GET", f"/jobs/{job_id}")
            if job["ended_at"] is not None:
                break
            time.sleep(POLL_S)
        if job["status"] != "succeeded":
            raise RuntimeError(f"{method} {path}: {job['status']}: {job['error']}")
        return job
