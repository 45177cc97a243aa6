"""The model on MLServer: FP32 bytes in base64, in the JSON of V2, POST /v2/models/model/infer.

python -m loadtests.peers.servers.mlserver_server MODEL PORT
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse

from . import session

NAME: Final = "model"
WAIT_S: Final = 0.002
"""Time that MLServer waits for a batch to fill up, in seconds; it does not batch without."""


class Classifier(MLModel):  # type: ignore[misc]  # not installed where types are checked
    """Runs batches of the model."""

    run: Callable[[session.Rows], session.Rows]

    async def load(self) -> bool:
        """Load the model."""
        self.run = session.load(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run one batch: each element of the first input is a sample."""
        samples = Base64Codec.decode_input(payload.inputs[0])
        logits = self.run(np.stack([np.frombuffer(sample, np.float32) for sample in samples]))
        output = NumpyCodec.encode_output("logits", logits)
        return InferenceResponse(model_name=NAME, outputs=[output])


async def main(model: str, port: int) -> None:
    """Serve the model until a signal arrives."""
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=0,
        metrics_endpoint=None,
        debug=False,
        parallel_workers=0,
        load_models_at_startup=False,
    )
    model_settings = ModelSettings(
        name=NAME,
        implementation=Classifier,
        max_batch_size=session.BATCH_SIZE,
        max_batch_time=WAIT_S,
        parameters=ModelParameters(uri=model),
    )
    await MLServer(settings).start([model_settings])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
