"""The model on BentoML: base64 in JSON in, a JSON list out, POST /classify.

python -m loadtests.peers.servers.bentoml_server MODEL PORT
"""

from __future__ import annotations

import base64
import os
import sys
from typing import Annotated, Final

import bentoml
import numpy as np
from bentoml.validators import ContentType

from . import session

MODEL: Final = "PEERS_MODEL"
"""Environment variable that passes the path of the model to the worker process."""

Logits = Annotated[list[list[float]], ContentType("application/json")]
"""Without its content type, BentoML generates a JSON schema for every response."""


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Classifier:
    """Runs batches of the model."""

    def __init__(self) -> None:
        self._run = session.load(os.environ[MODEL])

    @bentoml.api(batchable=True, max_batch_size=session.BATCH_SIZE)  # type: ignore[untyped-decorator]
    def classify(self, samples: list[str]) -> Logits:
        """Run one batch; each element is a sample in base64."""
        rows = [np.frombuffer(base64.b64decode(sample), np.float32) for sample in samples]
        logits: Logits = self._run(np.stack(rows)).tolist()
        return logits


if __name__ == "__main__":
    model, port = sys.argv[1:]
    os.environ[MODEL] = model
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    arguments = ["serve", f"{__spec__.name}:Classifier", "--host", "127.0.0.1", "--port", port]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *arguments])
