"""Why a variant is or is not faster than dense: both profiled, layer beside layer, and reasons.

    catalog, variant, batch size ─▶ ops of both (timeline) + weights of both (graph) ─▶ Facts
                                 ─▶ rows and Reasons

The speedup is the report card's where it has one for this hardware and batch size, and is
measured anew where not. Times by layer come from a profile, which is slower than a plain call.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import safetensors.torch
import torch
from torch import nn

from variants.analysis.explain.graph import Graph, Stored, padding
from variants.analysis.explain.reason import Facts, LayerTiming, Reason, Side, reasons
from variants.analysis.explain.timeline import Op, onnx_ops, torch_ops
from variants.catalog import artifact
from variants.catalog.catalog import Catalog, Interval, Model, Runtime, Variant
from variants.catalog.datatype import NUMPY
from variants.catalog.hardware import hardware
from variants.catalog.recipe import DENSE
from variants.catalog.record import Record
from variants.catalog.sample_request import sample_path
from variants.measurement.profiling import profile
from variants.measurement.reference import dense_loaders
from variants.model.dataset import Samples
from variants.model.loading import load_network
from variants.runtime.onnx import FILE
from variants.runtime.plan import PLAN, WEIGHTS, Plan, rebuild
from variants.runtime.runner import Runner, load_runner

SECONDS_PER_POINT: Final = 0.5


class Row(Record):
    """A layer, or all operators of one kind that are no layer's, in both models."""

    name: str
    dense_kinds: tuple[str, ...]
    kinds: tuple[str, ...]
    """What the runtime computes there: `FusedGemm`, `QLinearConv`."""
    dense_s: float
    seconds: float
    share: float
    """Of all the operators' time in the variant."""


class Explanation(Record):
    """Where the time goes in a variant and in dense, and why it is or is not faster."""

    variant: str
    batch_size: int
    hardware: str
    speedup: Interval
    """Dense's median over the variant's; dense in its faster runtime."""
    is_from_card: bool
    seconds: float
    """Median of a plain call."""
    dense_seconds: float
    rows: tuple[Row, ...]
    """The one that takes most of the variant's time first."""
    reasons: tuple[Reason, ...]


def explain(
    folder: Path,
    name: str,
    *,
    batch_size: int = 1,
    threads: int = 1,
    seconds_per_point: float = SECONDS_PER_POINT,
) -> Explanation:
    """Explain a variant of the catalog in this folder at a batch size.

    Dense is profiled in the runtime it is served by. The batch is the catalog's sample, repeated.
    Raises `ValueError` if there is no such variant, or it is dense itself.
    """
    catalog = Catalog.load(folder)
    if name not in catalog.variants or name == DENSE:
        others = ", ".join(other for other in catalog.variants if other != DENSE)
        raise ValueError(f"no variant {name!r} to set beside dense; there are: {others or 'none'}")
    variant, dense = catalog.variants[name], catalog.variants[DENSE]
    batch = _batch(folder, catalog.model, batch_size)
    kept = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        ops, weights = inspect(folder, catalog.model, variant, batch, threads)
        dense_ops, dense_weights = inspect(folder, catalog.model, dense, batch, threads)
        speed = _speed(folder, catalog, variant, batch, batch_size, threads, seconds_per_point)
    finally:
        torch.set_num_threads(kept)
    speedup, seconds, dense_seconds, is_from_card = speed
    card = variant.report_card(hardware(threads).key)
    facts = Facts(
        batch_size=batch_size,
        runner=variant.runner,
        dense_runner=dense.runner,
        speedup=speedup,
        speedups={one.batch_size: one.speedup for one in card.latencies} if card else {},
        seconds=seconds,
        dense_seconds=dense_seconds,
        layers=beside(ops, weights, dense_ops, dense_weights),
        other_seconds=_others(ops),
        notes=variant.notes,
    )
    return Explanation(
        variant=name,
        batch_size=batch_size,
        hardware=hardware(threads).key,
        speedup=speedup,
        is_from_card=is_from_card,
        seconds=seconds,
        dense_seconds=dense_seconds,
        rows=_rows(ops, dense_ops),
        reasons=reasons(facts),
    )


def _batch(folder: Path, model: Model, batch_size: int) -> Samples:
    request = json.loads(sample_path(folder).read_bytes())
    given = {tensor["name"]: tensor for tensor in request["inputs"]}
    return {
        spec.name: np.repeat(
            np.array(given[spec.name]["data"], NUMPY[spec.datatype]).reshape(
                given[spec.name]["shape"]
            ),
            batch_size,
            axis=0,
        )
        for spec in model.inputs
    }


def inspect(
    folder: Path, model: Model, variant: Variant, batch: Samples, threads: int
) -> tuple[list[Op], dict[str, Stored]]:
    """Profile a variant of the catalog in this folder, and say how its weights are stored."""
    files = artifact.read_all(folder / variant.name, variant)
    if variant.runner == "onnx":
        return onnx_ops(files[FILE], batch, threads=threads), Graph(files[FILE]).layers
    plan = Plan.model_validate_json(files[PLAN])
    network = rebuild(load_network(model.factory), plan, files[WEIGHTS]).eval()
    return torch_ops(network, batch), _torch_weights(network, plan, files[WEIGHTS])


def _torch_weights(network: nn.Module, plan: Plan, weights: bytes) -> dict[str, Stored]:
    tensors = safetensors.torch.load(weights)
    stored = {}
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if [*module.children()] or not isinstance(weight, torch.Tensor) or weight.ndim < 2:
            continue
        if isinstance(module, nn.Embedding):
            continue
        if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            weight = weight.transpose(0, 1)  # outputs first
        is_zero = (weight == 0).numpy()
        is_packed = f"{name}.weight" not in tensors
        form = plan.layers[name].kind.removeprefix("linear-") if is_packed else str(weight.dtype)
        stored[name] = Stored(
            tuple(weight.shape),
            form.removeprefix("torch."),
            float(is_zero.mean()),
            padding(is_zero),
        )
    return stored


def _speed(
    folder: Path,
    catalog: Catalog,
    variant: Variant,
    batch: Samples,
    batch_size: int,
    threads: int,
    seconds_per_point: float,
) -> tuple[Interval, float, float, bool]:
    card = variant.report_card(hardware(threads).key)
    latencies = {one.batch_size: one for one in card.latencies} if card else {}
    is_from_card = batch_size in latencies
    if not is_from_card:
        dense = catalog.variants[DENSE]
        references = dense_loaders(folder, catalog.model, dense, threads=threads)
        names: dict[Runtime, str] = {runtime: f"{DENSE} in {runtime}" for runtime in references}
        loaders: dict[str, Callable[[], Runner]] = {
            names[runtime]: loader for runtime, loader in references.items()
        }
        loaders[variant.name] = lambda: load_runner(folder, catalog.model, variant, threads=threads)
        measured = profile(
            loaders,
            batch,
            dense=names,
            batch_sizes=(batch_size,),
            seconds_per_point=seconds_per_point,
        )
        latencies = {batch_size: measured[variant.name][0]}
    one = latencies[batch_size]
    return one.speedup, one.p50_s, min(one.dense_p50_s.values()), is_from_card


def beside(
    ops: Sequence[Op],
    weights: Mapping[str, Stored],
    dense_ops: Sequence[Op],
    dense_weights: Mapping[str, Stored],
) -> tuple[LayerTiming, ...]:
    """Set the layers of a variant beside those of dense, by name, dense's order first."""
    sides = {name: _side(ops, name, stored) for name, stored in weights.items()}
    dense_sides = {name: _side(dense_ops, name, stored) for name, stored in dense_weights.items()}
    names = dict.fromkeys((*dense_sides, *sides))
    return tuple(LayerTiming(name, dense_sides.get(name), sides.get(name)) for name in names)


def _side(ops: Sequence[Op], name: str, stored: Stored) -> Side | None:
    own = [op for op in ops if op.layer == name]
    if not own:
        return None
    longest = max(own, key=lambda op: op.seconds)
    integer = next((op for op in own if op.arithmetic == "int8"), longest)
    return Side(
        shape=stored.shape,
        form=stored.form,
        zeros=stored.zeros,
        padding=stored.padding,
        arithmetic=integer.arithmetic,
        seconds=sum(op.seconds for op in own),
    )


def _others(ops: Sequence[Op]) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    for op in ops:
        if op.layer is None:
            seconds[op.kind] += op.seconds
    return dict(seconds)


def _rows(ops: Sequence[Op], dense_ops: Sequence[Op]) -> tuple[Row, ...]:
    total = sum(op.seconds for op in ops)
    dense, variant = _grouped(dense_ops), _grouped(ops)
    rows = [
        Row(
            name=name,
            dense_kinds=_kinds(dense.get(name, ())),
            kinds=_kinds(variant.get(name, ())),
            dense_s=sum(op.seconds for op in dense.get(name, ())),
            seconds=(seconds := sum(op.seconds for op in variant.get(name, ()))),
            share=seconds / total if total else 0.0,
        )
        for name in dict.fromkeys((*dense, *variant))
    ]
    return tuple(sorted(rows, key=lambda row: -row.seconds))


def _grouped(ops: Sequence[Op]) -> dict[str, list[Op]]:
    groups: dict[str, list[Op]] = defaultdict(list)
    for op in ops:
        groups[op.layer or f"({op.kind})"].append(op)
    return groups


def _kinds(ops: Sequence[Op]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(op.kind for op in ops))
