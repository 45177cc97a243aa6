"""The model as Triton's Python backend runs it; `triton_server` copies this file for Triton."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from loadtests.peers.servers import session


class TritonPythonModel:
    """Runs batches of the model; Triton finds the class by its name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model of the parameter `path`."""
        # Triton renames DLPack's capsules so that numpy cannot release them, and releases them
        # itself; numpy would report an error for each.
        sys.unraisablehook = lambda error: None
        config = json.loads(args["model_config"])
        self._run = session.load(config["parameters"]["path"]["string_value"])
        self._input = config["input"][0]["name"]
        self._output = config["output"][0]["name"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the requests that Triton's dynamic batcher has collected.

        Tensors pass by DLPack: Triton's own conversion expects numpy 1. With numpy 2, inputs have
        wrong strides and outputs are empty.
        """
        samples = [
            np.from_dlpack(triton.get_input_tensor_by_name(request, self._input))
            for request in requests
        ]
        logits = self._run(np.concatenate(samples))
        ends = np.cumsum([len(rows) for rows in samples])[:-1]
        return [
            triton.InferenceResponse([triton.Tensor.from_dlpack(self._output, rows)])
            for rows in np.split(logits, ends)
        ]
