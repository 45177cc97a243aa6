"""Malformed `ModelInferRequest`s, each with what it must be told: for the codec, and over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from variants.catalog.datatype import NUMPY


@dataclass(frozen=True)
class Malformed:
    """A message, and what is due to it."""

    rule: str
    message: Any
    text: str
    status: str = "INVALID_ARGUMENT"


UNSET = pb.InferParameter()
REGION = pb.InferParameter(string_param="region")
X: dict[str, Any] = {"name": "x", "shape": [2], "datatype": "FP32"}


def request(
    rule: str,
    text: str,
    *,
    inputs: Sequence[dict[str, Any]] = (X,),
    raw: Sequence[bytes] = (bytes(8),),
    status: str = "INVALID_ARGUMENT",
    **fields: Any,
) -> Malformed:
    """A well-formed request with raw contents, but for what is said."""
    own = [pb.ModelInferRequest.InferInputTensor(**tensor) for tensor in inputs]
    message = pb.ModelInferRequest(
        model_name="shirts", id="a-1", inputs=own, raw_input_contents=raw, **fields
    )
    return Malformed(rule, message, text, status)


def tensor(rule: str, text: str, *, status: str = "INVALID_ARGUMENT", **fields: Any) -> Malformed:
    """A request with one raw input that is well-formed, but for what is said."""
    return request(rule, text, inputs=[{**X, **fields}], status=status)


def typed(
    rule: str, text: str, datatype: str = "FP32", shape: Sequence[int] = (2,), **contents: Any
) -> Malformed:
    """A request with one input of typed contents."""
    own = {
        "name": "x",
        "shape": shape,
        "datatype": datatype,
        "contents": pb.InferTensorContents(**contents),
    }
    return request(rule, text, inputs=[own], raw=[])


def output(name: str = "y", **parameters: Any) -> Any:
    own = pb.ModelInferRequest.InferRequestedOutputTensor(name=name)
    for key, parameter in parameters.items():
        own.parameters[key].CopyFrom(parameter)
    return own


NO_VALUE = "must have a value: a string, a number or a boolean"
ENTRIES = "raw_input_contents must be empty or have one entry for each input, in the same order"

MALFORMED = (
    request("no inputs", "inputs must hold at least one tensor", inputs=[], raw=[]),
    request("raw contents without inputs", "inputs must hold at least one tensor", inputs=[]),
    request("an input without a name", "inputs[0] must have a name", inputs=[{**X, "name": ""}]),
    request(
        "two inputs of one name",
        "input names must be unique, 'x' occurs twice",
        inputs=[X, X],
        raw=[bytes(8)] * 2,
    ),
    request(
        "more inputs than are taken",
        "a request may have at most 1000 inputs, this one has 1001",
        inputs=[X] * 1001,
        raw=[bytes(8)] * 1001,
    ),
    request(
        "more outputs than are taken",
        "a request may have at most 1000 outputs, this one has 1001",
        outputs=[output()] * 1001,
    ),
    request(
        "fewer raw contents than inputs",
        f"{ENTRIES}; there are 2 inputs and 1 entries",
        inputs=[X, {**X, "name": "z"}],
    ),
    request("more raw contents than inputs", f"{ENTRIES}; there are 1", raw=[bytes(8)] * 2),
    request("an output without a name", "outputs[0] must have a name", outputs=[output("")]),
    request(
        "two outputs of one name",
        "output names must be unique, 'y' occurs twice",
        outputs=[output(), output()],
    ),
    request(
        "a classification",
        "the classification extension is not supported",
        outputs=[output(classification=pb.InferParameter(int64_param=3))],
        status="UNIMPLEMENTED",
    ),
    request(
        "an output in shared memory",
        "shared memory is not supported",
        outputs=[output(shared_memory_region=REGION)],
        status="UNIMPLEMENTED",
    ),
    tensor(
        "an input in shared memory",
        "shared memory is not supported; send the tensor's bytes",
        parameters={"shared_memory_region": REGION},
        status="UNIMPLEMENTED",
    ),
    request("a parameter without a value", f"parameters: 'p' {NO_VALUE}", parameters={"p": UNSET}),
    request(
        "a parameter of an output without a value",
        f"outputs[0].parameters: 'p' {NO_VALUE}",
        outputs=[output(p=UNSET)],
    ),
    tensor(
        "a parameter of an input without a value",
        f"input 'x': parameters: 'p' {NO_VALUE}",
        parameters={"p": UNSET},
    ),
    tensor("a negative dimension", "shape must hold integers of at least 0", shape=[-1]),
    tensor(
        "too many dimensions", "input 'x': shape may have at most 8 dimensions", shape=[1] * 8 + [2]
    ),
    tensor(
        "too many dimensions, all negative", "shape may have at most 8 dimensions", shape=[-1] * 9
    ),
    tensor("an empty shape beyond any address", "is too large", shape=[0, 2**62]),
    tensor("an unknown datatype", f"must be one of {', '.join(NUMPY)}", datatype="FP8"),
    tensor("no datatype", f"must be one of {', '.join(NUMPY)}", datatype=""),
    tensor("a datatype in lower case", "datatype must be one of", datatype="fp32"),
    tensor("fewer bytes than the shape's", "takes 12 bytes, not 8", shape=[3]),
    tensor("more bytes than the shape's", "takes 4 bytes, not 8", shape=[1]),
    tensor("bytes for an empty shape", "takes 0 bytes, not 8", shape=[0]),
    tensor(
        "contents beside raw contents",
        "input 'x': contents must be empty if the request has raw_input_contents",
        contents=pb.InferTensorContents(fp32_contents=[1, 2]),
    ),
    request(
        "BYTES that end early",
        "element 0 declares 9 bytes, but 1 are left",
        inputs=[{**X, "datatype": "BYTES", "shape": [1]}],
        raw=[b"\x09\x00\x00\x00a"],
    ),
    request(
        "BOOL that is neither",
        "a value of BOOL must be a byte of 0 or 1",
        inputs=[{**X, "datatype": "BOOL", "shape": [1]}],
        raw=[b"\x02"],
    ),
    request("no contents at all", "holds 2 values, fp32_contents has 0", raw=[]),
    typed("too few values", "shape [2] holds 2 values, fp32_contents has 1", fp32_contents=[1]),
    typed(
        "too many values", "shape [2] holds 2 values, fp32_contents has 3", fp32_contents=[1] * 3
    ),
    typed("values for an empty shape", "holds 0 values", shape=[2, 0], fp32_contents=[1]),
    typed("a shape much larger", "has 1", shape=[2**20, 2**20], fp32_contents=[1]),
    typed(
        "the field of another datatype",
        "contents of FP32 must be in fp32_contents only, the request has fp64_contents",
        fp64_contents=[1, 2],
    ),
    typed(
        "a second field",
        "contents of INT64 must be in int64_contents only, "
        "the request has int_contents, int64_contents",
        "INT64",
        int64_contents=[1, 2],
        int_contents=[1, 2],
    ),
    typed("FP16, which has no field", "FP16 can only be sent in raw_input_contents", "FP16"),
    typed(
        "BF16 in the field of FP32",
        "BF16 can only be sent in raw_input_contents",
        "BF16",
        fp32_contents=[1, 2],
    ),
    *(
        typed(
            f"{value} in {datatype}",
            f"{field} has a value outside the range of {datatype}, {least} to {most}",
            datatype,
            [1],
            **{field: [value]},
        )
        for datatype, field, value, least, most in (
            ("UINT8", "uint_contents", 300, 0, 255),
            ("UINT16", "uint_contents", 2**16, 0, 2**16 - 1),
            ("INT8", "int_contents", 128, -128, 127),
            ("INT8", "int_contents", -129, -128, 127),
            ("INT16", "int_contents", 2**15, -(2**15), 2**15 - 1),
        )
    ),
)
