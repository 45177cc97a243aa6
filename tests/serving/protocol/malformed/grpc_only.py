"""Malformed requests that only gRPC can express: raw contents, typed contents, protobuf."""

from __future__ import annotations

from tritonclient.grpc import service_pb2 as pb

from tests.serving.protocol.malformed.case import Malformed, X, grpc, grpc_input, grpc_typed

NO_VALUE = "must have a value: a string, a number or a boolean"
ENTRIES = "raw_input_contents must be empty or have one entry for each input, in the same order"
NOT_A_MESSAGE = "the message is not a valid inference.ModelInferRequest"

NOT_PROTOBUF = [
    Malformed("bytes that are not protobuf", NOT_A_MESSAGE, grpc=b"\xff" * 20),
    Malformed("a truncated field", NOT_A_MESSAGE, grpc=b"\x0a\x7fshort"),
]
"""Bytes that are not a message of any RPC."""

GRPC = (
    *NOT_PROTOBUF,
    Malformed("a name that is not UTF-8", NOT_A_MESSAGE, grpc=b"\x0a\x02\xff\xfe"),
    grpc("raw contents without inputs", "inputs must hold at least one tensor", inputs=[]),
    grpc(
        "fewer raw contents than inputs",
        f"{ENTRIES}; there are 2 inputs and 1 entries",
        inputs=[X, {**X, "name": "z"}],
    ),
    grpc("more raw contents than inputs", f"{ENTRIES}; there are 1", raw=[bytes(8)] * 2),
    grpc("a parameter without a value", f"parameters: 'p' {NO_VALUE}", parameters={"p": None}),
    grpc(
        "a parameter of an output without a value",
        f"outputs[0].parameters: 'p' {NO_VALUE}",
        outputs=[{"name": "y", "parameters": {"p": None}}],
    ),
    grpc_input(
        "a parameter of an input without a value",
        f"input 'x': parameters: 'p' {NO_VALUE}",
        parameters={"p": None},
    ),
    grpc_input(
        "too many dimensions, all negative", "shape may have at most 8 dimensions", shape=[-1] * 9
    ),
    grpc_input("too few bytes for the shape", "takes 12 bytes, not 8", shape=[3]),
    grpc_input("too many bytes for the shape", "takes 4 bytes, not 8", shape=[1]),
    grpc_input("bytes for an empty shape", "takes 0 bytes, not 8", shape=[0]),
    grpc_input(
        "typed contents beside raw contents",
        "input 'x': contents must be empty if the request has raw_input_contents",
        contents=pb.InferTensorContents(fp32_contents=[1, 2]),
    ),
    grpc(
        "BYTES truncated within an element",
        "element 0 declares 9 bytes, but 1 are left",
        inputs=[{**X, "datatype": "BYTES", "shape": [1]}],
        raw=[b"\x09\x00\x00\x00a"],
    ),
    grpc(
        "a BOOL of 2, raw",
        "a value of BOOL must be a byte of 0 or 1",
        inputs=[{**X, "datatype": "BOOL", "shape": [1]}],
        raw=[b"\x02"],
    ),
    grpc("no contents", "holds 2 values, fp32_contents has 0", raw=[]),
    grpc_typed(
        "too few values in typed contents",
        "shape [2] holds 2 values, fp32_contents has 1",
        fp32_contents=[1],
    ),
    grpc_typed(
        "too many values in typed contents",
        "shape [2] holds 2 values, fp32_contents has 3",
        fp32_contents=[1] * 3,
    ),
    grpc_typed("values for an empty shape", "holds 0 values", shape=[2, 0], fp32_contents=[1]),
    grpc_typed("a shape of 2**40 values", "has 1", shape=[2**20, 2**20], fp32_contents=[1]),
    grpc_typed(
        "the contents field of another datatype",
        "contents of FP32 must be in fp32_contents only, the request has fp64_contents",
        fp64_contents=[1, 2],
    ),
    grpc_typed(
        "two contents fields",
        "contents of INT64 must be in int64_contents only, "
        "the request has int_contents, int64_contents",
        "INT64",
        int64_contents=[1, 2],
        int_contents=[1, 2],
    ),
    grpc_typed("FP16 without raw contents", "FP16 can only be sent in raw_input_contents", "FP16"),
    grpc_typed(
        "BF16 in the contents field of FP32",
        "BF16 can only be sent in raw_input_contents",
        "BF16",
        fp32_contents=[1, 2],
    ),
    *(
        grpc_typed(
            f"{value} in {datatype}",
            f"{field} has a value outside the range of {datatype}, {smallest} to {largest}",
            datatype,
            [1],
            **{field: [value]},
        )
        for datatype, field, value, smallest, largest in (
            ("UINT8", "uint_contents", 300, 0, 255),
            ("UINT16", "uint_contents", 2**16, 0, 2**16 - 1),
            ("INT8", "int_contents", 128, -128, 127),
            ("INT8", "int_contents", -129, -128, 127),
            ("INT16", "int_contents", 2**15, -(2**15), 2**15 - 1),
        )
    ),
)
