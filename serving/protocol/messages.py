"""The Open Inference Protocol V2's request and response, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One request to infer; the datatypes and shapes of its inputs are those of the arrays.

    `outputs` maps the outputs asked for, in order, to whether each is to be sent as binary; empty
    means all of them, as `binary_output` says.
    """

    inputs: Mapping[str, npt.NDArray[Any]]
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, bool] = field(default_factory=dict)
    binary_output: bool = False


@dataclass(frozen=True, slots=True)
class InferResponse:
    """One answer; `model_version` is the variant that gave it."""

    model_name: str
    model_version: str
    outputs: Mapping[str, npt.NDArray[Any]]
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
