"""The model on mosec: raw FP32 bytes in and out, POST /inference.

python -m loadtests.peers.servers.mosec_server MODEL PORT WAIT_MS

mosec collects up to 64 requests, or as many as arrive within WAIT_MS after the first.
"""

from __future__ import annotations

import os
import sys
from typing import Final

import numpy as np
from mosec import Server, Worker

from . import session

MODEL: Final = "PEERS_MODEL"
"""Environment variable that passes the path of the model to the worker process."""


class Classifier(Worker):  # type: ignore[misc]  # mosec is not installed where types are checked
    """Runs batches of the model."""

    def __init__(self) -> None:
        self._run = session.load(os.environ[MODEL])

    def deserialize(self, data: bytes) -> session.Rows:
        """Return the sample of a request body."""
        return np.frombuffer(data, np.float32)

    def forward(self, data: list[session.Rows]) -> list[session.Rows]:
        """Run one batch."""
        return list(self._run(np.stack(data)))

    def serialize(self, data: session.Rows) -> bytes:
        """Return the response body of one sample."""
        return data.tobytes()


if __name__ == "__main__":
    model, port, wait_ms = sys.argv[1:]
    os.environ[MODEL] = model
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", port, "--wait", wait_ms]
    sys.argv += ["--log-level", "warning"]
    server = Server()
    server.append_worker(Classifier, max_batch_size=session.BATCH_SIZE)
    server.run()
