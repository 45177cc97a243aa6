"""The service, fuzzed by its own OpenAPI document: it does what that says, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.service import RunningService

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("schemathesis.toml")
COMMAND = Path(sys.executable).with_name("st")

EXAMPLES = 50
"""Per operation, beside some thousand systematic cases; `make fuzz` tries more."""

LEAST_ANSWERS = 100
"""Fewer would mean that hardly a request reached the model."""


def answers(service: RunningService) -> int:
    """How many requests to infer the service has answered so far."""
    with service.client() as client:
        stats = client.get("/v2/models/stats").json()["model_stats"]
    return sum(own["inference_stats"]["success"]["count"] for own in stats)


def test_the_service_keeps_to_its_openapi_document(service: RunningService) -> None:
    before = answers(service)
    fuzzed = subprocess.run(
        [
            COMMAND,
            f"--config-file={CONFIG}",
            "run",
            f"{service.url}/openapi.json",
            f"--max-examples={EXAMPLES}",
            "--generation-deterministic",
            "--no-color",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert fuzzed.returncode == 0, fuzzed.stdout + fuzzed.stderr
    assert answers(service) - before > LEAST_ANSWERS
