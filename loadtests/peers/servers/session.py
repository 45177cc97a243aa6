"""Loads the measured model as every server program does: onnxruntime, one thread, no spinning.

The programs in this folder are run by the peers' interpreters. They therefore import nothing of
Paretoserve.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

BATCH_SIZE: Final = 64
"""Maximum number of samples in a batch, as Paretoserve's default."""

Rows: TypeAlias = NDArray[np.float32]
"""One sample per row."""


def load(path: str) -> Callable[[Rows], Rows]:
    """Return the model in an ONNX file: from FP32 inputs `[n, ...]` to FP32 logits `[n, k]`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(rows: Rows) -> Rows:
        outputs: list[Any] = session.run(None, {name: rows})
        logits: Rows = outputs[0]
        return logits

    return run
