"""Exports a torch network to ONNX, with dynamic batch, and checks its outputs against torch.

The export uses torch's dynamo exporter. Metadata on the machine (stack traces with paths) is
removed, so that equal networks give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Final

import onnx
import torch
from torch import nn

from variants.compression.export_comparison import BATCH, LARGEST_SIZE, Sizes, require_equal
from variants.compression.quiet import quiet
from variants.model.dataset import Samples, rows
from variants.model.fast_path import without_fast_path
from variants.model.forward import tensors
from variants.model.state import CompressionState, Interface

_EXPORTED_SAMPLES: Final = 16
"""Number of samples in the call that is recorded."""
_TRIED_SIZES: Final = 256
"""Sizes up to this are tried in the conditions of the exported path."""
_MOST_VIOLATIONS: Final = 2
"""Sizes to compare for each of these conditions."""
_LOCATION_HEADER: Final = "The following call raised this error:"
"""Line of torch's message that precedes the file and the source line."""


def export_state(state: CompressionState, samples: Samples) -> onnx.ModelProto:
    """Export the network of a state, unless it is dense and the graph of dense is known."""
    if state.network is state.dense and state.dense_graph is not None:
        return onnx.load_model_from_string(state.dense_graph)
    return export(state.network, samples, state.interface)


def export(network: nn.Module, samples: Samples, interface: Interface) -> onnx.ModelProto:
    """Export a network and check onnxruntime's outputs for `samples` against torch's.

    The check runs several numbers of samples and several sizes of variable dimensions (see
    `require_equal`). Raises `ValueError` if the network cannot be exported or if an output differs
    by more than `TOLERANCE`.
    """
    network.eval()
    try:
        with quiet(), without_fast_path():
            program = torch.onnx.export(
                network,
                tensors(rows(samples, slice(0, _EXPORTED_SAMPLES))),
                dynamo=True,
                dynamic_shapes=tuple(
                    _dimensions(spec.name, interface) for spec in interface.inputs
                ),
                input_names=[spec.name for spec in interface.inputs],
                output_names=[spec.name for spec in interface.outputs],
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(f"the model cannot be exported to ONNX: {_root_cause(error)}") from error
    assert program is not None  # only the older exporter returns None
    _rename_inner_values(program.model.graph, interface)
    model = _strip_metadata(program.model_proto)
    require_equal(network, model, samples, interface, _edges(program.exported_program, interface))
    return model


def _dimensions(name: str, interface: Interface) -> dict[int, str]:
    """Return the names of the variable dimensions of an input."""
    return {0: BATCH, **interface.axes.get(name, {})}


def _rename_inner_values(graph: Any, interface: Interface) -> None:
    """Give values inside a graph (of onnx_ir) other names than its inputs and outputs have.

    An input may have any name, such as `linear`, which the exporter also gives to values.
    """
    ends = {id(value) for value in (*graph.inputs, *graph.outputs)}
    inner = [value for value in _values(graph) if id(value) not in ends]
    reserved = {spec.name for spec in (*interface.inputs, *interface.outputs)}
    taken = reserved | {value.name for value in inner}
    for value in inner:
        if value.name in reserved:
            number = next(n for n in range(len(taken) + 1) if f"{value.name}_{n}" not in taken)
            value.name = f"{value.name}_{number}"
            taken.add(value.name)


def _values(graph: Any) -> Iterator[Any]:
    yield from graph.initializers.values()
    for node in graph.all_nodes():
        yield from node.outputs


def _edges(program: Any, interface: Interface) -> Sizes:
    """Return the sizes at the ends of the range in which the exported path holds, and outside.

    `program` is a `torch.export.ExportedProgram`. Its shapes know ranges of sizes, and other
    conditions on them, as symbolic expressions.
    """
    values = {
        node.name: node.meta.get("val") for node in program.graph.find_nodes(op="placeholder")
    }
    edges: dict[str, list[int]] = {}
    for key, spec in zip(program.graph_signature.user_inputs, interface.inputs, strict=True):
        for axis, name in _dimensions(spec.name, interface).items():
            size = values[key].shape[axis]
            if name in edges or not isinstance(size, torch.SymInt):
                continue
            symbol, shapes = size.node.expr, size.node.shape_env
            found = edges[name] = []
            if (limits := program.range_constraints.get(symbol)) is not None:
                ends = (limits.lower - 1, limits.lower, limits.upper, limits.upper + 1)
                found += [int(end) for end in ends if 1 <= end <= LARGEST_SIZE]
            asserts = chain.from_iterable(shapes.deferred_runtime_asserts.values())
            for condition in dict.fromkeys(each.expr for each in asserts):
                if condition.free_symbols == {symbol}:
                    found += islice(_violations(condition, symbol), _MOST_VIOLATIONS)
    return {name: tuple(sizes) for name, sizes in edges.items()}


def _violations(condition: Any, symbol: Any) -> Iterator[int]:
    """Yield the sizes for which a condition (of sympy) does not hold."""
    for size in range(1, _TRIED_SIZES + 1):
        if condition.subs(symbol, size) == False:  # noqa: E712  # sympy's false is no bool
            yield size


def _root_cause(error: BaseException) -> str:
    """Return the message and the location of the root cause; the exporter wraps it many times."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = (
        " ".join(lines[: 2 if lines[0].endswith(":") else 1]) if lines else type(error).__name__
    )
    if "data-dependent" in reason:
        reason = f"control flow in forward must not depend on the values of inputs: {reason}"
    if _LOCATION_HEADER in lines:
        after = lines.index(_LOCATION_HEADER) + 1
        reason = f"{reason}; {': '.join(lines[after : after + 2])}"
    return reason


def _strip_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the exporter's metadata, and intermediate shapes, which quantization infers again."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    model.doc_string = graph.doc_string = ""
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    return model
