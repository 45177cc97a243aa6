"""The request and the response of the Open Inference Protocol V2, as plain data.

Both transports parse into `InferRequest` and render `InferResponse`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt


# Neither class is frozen: each request makes both, and that would triple their cost.
@dataclass(slots=True)
class InferRequest:
    """An inference request. The arrays give the datatypes and shapes of its inputs.

    `outputs` maps the names of the requested outputs, in order, to whether each is sent as binary.
    If it is empty, all outputs are sent, in the form that `binary_output` states.
    """

    inputs: Mapping[str, npt.NDArray[Any]]
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, bool] = field(default_factory=dict)
    binary_output: bool = False


@dataclass(slots=True)
class InferResponse:
    """An inference response. `model_version` is the name of the variant that computed it."""

    model_name: str
    model_version: str
    outputs: Mapping[str, npt.NDArray[Any]]
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
