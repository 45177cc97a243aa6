"""Malformed requests that both transports can express."""

from __future__ import annotations

from serving.errors import Unsupported
from tests.serving.protocol.malformed.case import X, both
from variants.catalog.datatype import NUMPY

DATATYPES = f"input 'x': datatype must be one of {', '.join(NUMPY)}"
NO_DATATYPE = DATATYPES.replace("must be", "is missing; it must be")
SHARED_MEMORY = "shared memory is not supported; send the tensor's bytes"

BOTH = (
    both("no inputs", "inputs must hold at least one tensor", inputs=[]),
    both(
        "an input without a name",
        "inputs[0] must have a name",
        inputs=[{"shape": [2], "datatype": "FP32"}],
    ),
    both("two inputs of one name", "input names must be unique, 'x' occurs twice", inputs=[X, X]),
    both(
        "too many inputs",
        "a request may have at most 1000 inputs, this one has 1001",
        inputs=[X] * 1001,
    ),
    both(
        "too many outputs",
        "a request may have at most 1000 outputs, this one has 1001",
        outputs=[{"name": "y"}] * 1001,
    ),
    both("an output without a name", "outputs[0] must have a name", outputs=[{}]),
    both(
        "two outputs of one name",
        "output names must be unique, 'y' occurs twice",
        outputs=[{"name": "y"}, {"name": "y"}],
    ),
    both(
        "a negative dimension",
        "input 'x': shape must hold integers of at least 0, got -1",
        inputs=[{**X, "shape": [-1]}],
    ),
    both(
        "too many dimensions",
        "input 'x': shape may have at most 8 dimensions",
        inputs=[{**X, "shape": [1] * 8 + [2]}],
    ),
    both(
        "an empty shape beyond the address range",
        "is too large",
        inputs=[{**X, "shape": [0, 2**62]}],
    ),
    both("no datatype", NO_DATATYPE, inputs=[{"name": "x", "shape": [2]}]),
    both("an unknown datatype", DATATYPES, inputs=[{**X, "datatype": "FP8"}]),
    both("a datatype in lower case", DATATYPES, inputs=[{**X, "datatype": "fp32"}]),
    both(
        "an output with the classification extension",
        "the classification extension is not supported",
        outputs=[{"name": "y", "parameters": {"classification": 3}}],
        error=Unsupported,
    ),
    both(
        "an input in shared memory",
        SHARED_MEMORY,
        inputs=[
            {**X, "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8}},
        ],
        error=Unsupported,
    ),
    both(
        "an output in shared memory",
        SHARED_MEMORY,
        outputs=[{"name": "y", "parameters": {"shared_memory_region": "r"}}],
        error=Unsupported,
    ),
)
