"""The model on LitServe: base64 in JSON in, a JSON list out, POST /predict.

python -m loadtests.peers.servers.litserve_server MODEL PORT
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable

import litserve
import numpy as np

from . import session


class Classifier(litserve.LitAPI):  # type: ignore[misc]  # not installed where types are checked
    """Runs batches of the model."""

    path = ""
    run: Callable[[session.Rows], session.Rows]

    def setup(self, device: str) -> None:
        """Load the model in the worker process."""
        self.run = session.load(self.path)

    # LitServe passes the JSON document only if the parameter has no type.
    def decode_request(self, request) -> session.Rows:  # type: ignore[no-untyped-def]
        """Return the sample of a request."""
        return np.frombuffer(base64.b64decode(request["input"]), np.float32)

    def batch(self, inputs: list[session.Rows]) -> session.Rows:
        """Return the samples as rows."""
        return np.stack(inputs)

    def predict(self, rows: session.Rows) -> session.Rows:
        """Run one batch."""
        return self.run(rows)

    def unbatch(self, output: session.Rows) -> list[session.Rows]:
        """Return the rows."""
        return list(output)

    def encode_response(self, output: session.Rows) -> list[float]:
        """Return the logits of one sample."""
        logits: list[float] = output.tolist()
        return logits


if __name__ == "__main__":
    model, port = sys.argv[1:]
    api = Classifier(max_batch_size=session.BATCH_SIZE, batch_timeout=0.0)
    api.path = model
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(port),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
