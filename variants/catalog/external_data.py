"""Refusal of ONNX models whose tensors lie in other files.

The format lets a tensor name a file from which it is read. No hash in `variant.json` covers such a
read, so a model in a catalog must contain all of its tensors. Builds write only such models.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

SUFFIX: Final = ".onnx"

_KEY: Final = b"location"
"""The key of the entry that names the file. A model without these bytes has no such tensor."""


def refuse_external_data(path: Path, content: bytes) -> None:
    """Raise `ValueError` if the ONNX model in a file has a tensor that lies in another file."""
    if path.suffix.lower() != SUFFIX or _KEY not in content:
        return
    onnx = import_module("onnx")  # takes 0.1 s, and few models contain the bytes
    try:
        model = onnx.load_model_from_string(content)
    except Exception:  # the errors of protobuf have no common base class
        raise ValueError(f"{path} is not an ONNX model; build it again") from None
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto) and (
            message.external_data or message.data_location == onnx.TensorProto.EXTERNAL
        ):
            where = next((e.value for e in message.external_data if e.key == _KEY.decode()), "")
            raise ValueError(
                f"{path} reads its tensor {message.name!a:.100} from the file {where!a:.100}: save "
                "it without external data, so that the model contains all of its tensors"
            )


def _messages(message: Any) -> Iterator[Any]:
    """Yield a message and all messages within it: graphs nest in attributes and functions."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            is_repeated = hasattr(value, "__len__")
            for each in value if is_repeated else (value,):
                yield from _messages(each)
