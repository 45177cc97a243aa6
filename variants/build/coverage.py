"""Finds which weights a step changed, by comparing the states before and after it.

    state before, state after ─▶ names of changed parameters ─▶ StepCoverage
                                 (values, shapes, masks; after a conversion: the graph's tensors)

Nothing depends on what a technique says of itself: a layer that no note mentions is found, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Final

import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from variants.catalog.coverage import StepCoverage, Untouched
from variants.compression.quantization.half import HALF_SUFFIX
from variants.compression.quantization.layer import QUANTIZED_SUFFIX
from variants.compression.quantization.shared_weights import find_codebooks
from variants.compression.techniques.technique import Technique
from variants.model.state import CompressionState

_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_MASKABLE: Final = ((nn.Linear, nn.Conv2d), "Linear and Conv2d")
COVERED: Final[Mapping[str, tuple[tuple[type[nn.Module], ...], str]]] = {
    "activation-pruning": (
        (nn.Linear, *_CONVOLUTIONS),
        "the outputs of Linear and Conv layers, and the layers that read them",
    ),
    "structured": (
        (nn.Linear, *_CONVOLUTIONS, nn.MultiheadAttention),
        "the outputs of Linear and Conv layers and attention heads, and the layers that read them",
    ),
    "unstructured": _MASKABLE,
    "sparse-n:m": _MASKABLE,
    "lottery-ticket": _MASKABLE,
    "weight-sharing": ((nn.Module,), "matrices that codes make smaller"),
    "low-rank": ((nn.Linear,), "Linear"),
    "smoothquant": ((nn.Linear, nn.LayerNorm), "Linear layers and the norms before them"),
    "int8": (
        (nn.Linear, *_CONVOLUTIONS, nn.Embedding),
        "Linear, Conv and Embedding",
    ),
    "fp16": ((nn.Module,), "tensors of 64 values or more"),
    "bf16": ((nn.Module,), "tensors of 64 values or more"),
    "recover": ((nn.Module,), "parameters that the scores depend on"),
}
"""What each technique can change: the classes of layers, and their names in a sentence."""

_VECTORS: Final = "biases, norms and other vectors"


@dataclass(frozen=True)
class _Owned:
    """A parameter with the module that holds it; a shared one belongs to the first."""

    name: str
    module_name: str
    module: nn.Module
    tensor: Tensor


def cover(technique: Technique, before: CompressionState, after: CompressionState) -> StepCoverage:
    """Return what a step changed of the network that it was given."""
    owned = list(_owned(before.network))
    if after.graph is not None and after.network is before.network:
        touched = _converted(owned, after.graph)
    else:
        touched = _changed(owned, before, after)
    notes = after.notes[len(before.notes) :]
    return _step(technique, owned, touched, notes)


def cover_packed(
    technique: Technique, source: CompressionState, quantized: Collection[str]
) -> StepCoverage:
    """Return what a conversion changed if sparse kernels with INT8 weights are served after it."""
    owned = list(_owned(source.network))
    names = {f"{layer}.weight" for layer in quantized}
    reason = "sparse kernels are served, and they compute all other layers in FP32"
    notes = [
        f"layer {each.module_name} stays in FP32: {reason}"
        for each in owned
        if each.name not in names
    ]
    return _step(technique, owned, names, notes)


def find_unmaskable(network: nn.Module) -> tuple[Untouched, ...]:
    """Return the matrices of a network that are neither a Linear's nor a Conv2d's weight."""
    owned = list(_owned(network))
    names = {
        each.name
        for each in owned
        if each.tensor.ndim < 2
        or (isinstance(each.module, _MASKABLE[0]) and each.name.endswith("weight"))
    }
    left = [each for each in owned if each.name not in names]
    return _grouped(left, lambda each: f"only {_MASKABLE[1]} are measured")


def _owned(network: nn.Module) -> Iterator[_Owned]:
    seen: set[int] = set()
    for module_name, module in network.named_modules():
        for name, tensor in module.named_parameters(recurse=False):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                full = f"{module_name}.{name}" if module_name else name
                yield _Owned(full, module_name, module, tensor.detach())


def _changed(
    owned: Collection[_Owned], before: CompressionState, after: CompressionState
) -> set[str]:
    """Return the parameters that are gone, or have other values, another shape or a new mask."""
    present = dict(after.network.named_parameters(remove_duplicate=False))

    def is_changed(each: _Owned) -> bool:
        if each.name not in present:
            return True
        now, mask = present[each.name], after.masks.get(each.name)
        if mask is not None and not mask.all() and mask is not before.masks.get(each.name):
            return True
        return now.shape != each.tensor.shape or not torch.equal(now, each.tensor)

    return {each.name for each in owned if is_changed(each)}


def _converted(owned: Collection[_Owned], graph: bytes) -> set[str]:
    """Return the parameters that a graph stores in fewer bits.

    The exporter keeps most names. It rearranges the matrices of recurrent layers and attention
    under other names; those count as converted if no matrix without a name is left in FP32.
    """
    content = onnx.load_model_from_string(graph).graph
    codes = find_codebooks(content)
    of_codes = {name for codebook in codes.values() for name in codebook.initializers}
    is_converted = dict.fromkeys(codes, True)
    known = {each.name for each in owned}
    # A smaller tensor that is no parameter is a constant, such as a scale.
    least = min((each.tensor.numel() for each in owned if each.tensor.ndim > 1), default=0)
    others = {True for name in codes if name not in known}
    for tensor in content.initializer:
        name = tensor.name.removesuffix(QUANTIZED_SUFFIX).removesuffix(HALF_SUFFIX)
        is_float = tensor.data_type == TensorProto.FLOAT
        if tensor.name in of_codes or (name == tensor.name and not is_float):
            continue
        if name in known:
            is_converted[name] = not is_float
        elif len(tensor.dims) > 1 and prod(tensor.dims) >= least:
            others.add(not is_float)
    rest = others == {True}
    return {each.name for each in owned if is_converted.get(each.name, rest)}


def _step(
    technique: Technique,
    owned: Collection[_Owned],
    touched: Collection[str],
    notes: Collection[str],
) -> StepCoverage:
    left = [each for each in owned if each.name not in touched]
    vectors = [each for each in left if each.tensor.ndim < 2]
    matrices = [each for each in left if each.tensor.ndim >= 2]
    untouched = _grouped(matrices, lambda each: _reason(technique, each, notes))
    if vectors:
        number = sum(each.tensor.numel() for each in vectors)
        kind, reason = f"{len(vectors)} tensors", f"{technique.kind} is for matrices"
        untouched = (
            *untouched,
            Untouched(layer=_VECTORS, kind=kind, weights=number, reason=reason),
        )
    total = sum(each.tensor.numel() for each in owned)
    return StepCoverage(
        technique=technique.kind,
        weights=total,
        touched=total - sum(each.tensor.numel() for each in left),
        untouched=untouched,
    )


def _grouped(left: Collection[_Owned], reason: Callable[[_Owned], str]) -> tuple[Untouched, ...]:
    """Return a line for each module, those with the most weights first."""
    modules: dict[str, list[_Owned]] = {}
    for each in left:
        # A module of the user may hold several parameters that are no layer's.
        key = each.module_name if _is_layer(each.module) else each.name
        modules.setdefault(key, []).append(each)
    lines = []
    for parts in modules.values():
        first = parts[0]
        is_whole = len(parts) > 1 or first.name == f"{first.module_name}.weight"
        lines.append(
            Untouched(
                layer=first.module_name if is_whole and first.module_name else first.name,
                kind=type(first.module).__name__ if _is_layer(first.module) else "parameter",
                weights=sum(part.tensor.numel() for part in parts),
                reason=reason(first),
            )
        )
    return tuple(sorted(lines, key=lambda line: -line.weights))


def _is_layer(module: nn.Module) -> bool:
    """Return whether a module is one of torch's or of a library's, and not a user's network."""
    return type(module).__module__.startswith("torch.nn.") or not [*module.children()]


def _reason(technique: Technique, each: _Owned, notes: Collection[str]) -> str:
    """Return why a parameter was left alone: what a note says, else the technique's limits."""
    for note in notes:
        name = note.removeprefix("layer ").partition(" ")[0].rstrip(":")
        if name and name in (each.module_name, each.name):
            return note.partition(": ")[2] or note
    patterns: Collection[str] = getattr(technique, "exclude", ())
    if any(fnmatchcase(each.module_name, pattern) for pattern in patterns):
        return "excluded"
    kinds, sentence = COVERED[technique.kind]
    if isinstance(each.module, kinds):
        return f"{technique.kind} left its values as they were"
    if not _is_layer(each.module):
        return f"it is no layer's; {technique.kind} changes {sentence}"
    return f"{technique.kind} changes {sentence}"
