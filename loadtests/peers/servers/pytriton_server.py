"""The model on Triton with its Python backend, by PyTriton: V2 binary tensors over HTTP.

python -m loadtests.peers.servers.pytriton_server MODEL PORT INPUT FEATURES OUTPUT CLASSES
"""

from __future__ import annotations

import sys

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from . import session

NAME = "model"

if __name__ == "__main__":
    model, port, input_name, features, output_name, classes = sys.argv[1:]
    run = session.load(model)

    @batch  # type: ignore[untyped-decorator]  # pytriton is not installed where types are checked
    def infer(**inputs: session.Rows) -> dict[str, session.Rows]:
        """Run one batch."""
        return {output_name: run(inputs[input_name])}

    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=int(port),
        allow_grpc=False,
        allow_metrics=False,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=NAME,
            infer_func=infer,
            inputs=[Tensor(name=input_name, dtype=np.float32, shape=(int(features),))],
            outputs=[Tensor(name=output_name, dtype=np.float32, shape=(int(classes),))],
            config=ModelConfig(max_batch_size=session.BATCH_SIZE, batcher=DynamicBatcher()),
        )
        triton.serve()
