"""Explain why a variant is or is not faster than dense: profile both, pair layers, give reasons.

    catalog, variant, batch size ─▶ operators (timeline) and weights (graph) of both ─▶ Evidence
                                 ─▶ rows and Reasons

The speedup comes from the report card, or is measured if the card has none for this hardware and
batch size. Times by layer come from a profile, which is slower than a plain call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import nn

from variants.analysis.explain.evidence import Evidence, LayerExecution, LayerTiming
from variants.analysis.explain.graph import Graph, StoredWeight, count_padding
from variants.analysis.explain.reason import Reason, reasons
from variants.analysis.explain.timeline import Operator, profile_onnx, profile_torch
from variants.catalog import artifact
from variants.catalog.catalog import BatchLatency, Catalog, Interval, Model, Runtime, Variant
from variants.catalog.coverage import StepCoverage
from variants.catalog.hardware import hardware
from variants.catalog.recipe import DENSE
from variants.catalog.record import Record
from variants.catalog.sample_request import read_batch
from variants.measurement.profiling import profile
from variants.measurement.reference import dense_loaders
from variants.model.dataset import Samples
from variants.runtime.onnx import FILE
from variants.runtime.plan import Plan
from variants.runtime.runner import Runner, load_runner
from variants.runtime.sparse.network import sparse_layers, use_kernels
from variants.runtime.torch import load_rebuilt

SECONDS_PER_POINT: Final = 0.5
"""Time to spend on each latency that the report card does not have."""


class OperatorRow(Record):
    """A layer, or all operators of one kind outside layers, in both models."""

    name: str
    dense_kinds: tuple[str, ...]
    kinds: tuple[str, ...]
    """The runtime's names of the operations: `FusedGemm`, `QLinearConv`."""
    dense_s: float
    seconds: float
    share: float
    """Share of the time of all the variant's operators."""


class Explanation(Record):
    """The time of a variant and of dense by layer, and the reasons for the speedup or its lack."""

    variant: str
    batch_size: int
    hardware: str
    speedup: Interval
    """Dense's median over the variant's, with dense in its faster runtime."""
    is_from_card: bool
    """Whether the speedup and the two medians come from the report card."""
    seconds: float
    """Median of a plain call."""
    dense_seconds: float
    rows: tuple[OperatorRow, ...]
    """Sorted by the variant's time, the longest first."""
    reasons: tuple[Reason, ...]
    coverage: tuple[StepCoverage, ...] = ()
    """What each step changed, and which layers it left alone."""
    unexplained: tuple[str, ...] = ()
    """Layers with weights that the reasons are not about, with their operators: recurrent layers,
    embeddings, products of several weights."""


def explain(
    folder: Path,
    name: str,
    *,
    batch_size: int = 1,
    threads: int = 1,
    seconds_per_point: float = SECONDS_PER_POINT,
) -> Explanation:
    """Explain a variant of the catalog in this folder at a batch size.

    Dense is profiled in the runtime that serves it. The batch is the catalog's sample, repeated.
    Raises `ValueError` if there is no such variant, or if it is dense itself.
    """
    catalog = Catalog.load(folder)
    if name not in catalog.variants or name == DENSE:
        others = ", ".join(other for other in catalog.variants if other != DENSE)
        raise ValueError(f"no variant {name!r} to compare with dense; there are {others or 'none'}")
    variant, dense = catalog.variants[name], catalog.variants[DENSE]
    batch = read_batch(folder, catalog.model, batch_size)
    threads_before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        operators, weights = profile_variant(folder, catalog.model, variant, batch, threads)
        dense_operators, dense_weights = profile_variant(
            folder, catalog.model, dense, batch, threads
        )
        latency, is_from_card = _latency(
            folder, catalog, variant, batch, batch_size, threads, seconds_per_point
        )
    finally:
        torch.set_num_threads(threads_before)
    dense_seconds = min(latency.dense_p50_s.values())
    card = variant.report_card(hardware(threads).key)
    evidence = Evidence(
        batch_size=batch_size,
        runner=variant.runner,
        dense_runner=dense.runner,
        speedup=latency.speedup,
        speedups={each.batch_size: each.speedup for each in card.latencies} if card else {},
        seconds=latency.p50_s,
        dense_seconds=dense_seconds,
        layers=pair_layers(operators, weights, dense_operators, dense_weights),
        other_seconds=_other_seconds(operators),
        notes=variant.notes,
    )
    return Explanation(
        variant=name,
        batch_size=batch_size,
        hardware=hardware(threads).key,
        speedup=latency.speedup,
        is_from_card=is_from_card,
        seconds=latency.p50_s,
        dense_seconds=dense_seconds,
        rows=_rows(operators, dense_operators),
        reasons=reasons(evidence),
        coverage=variant.coverage,
        unexplained=_unexplained(folder, catalog.model, dense, dense_weights),
    )


def profile_variant(
    folder: Path, model: Model, variant: Variant, batch: Samples, threads: int
) -> tuple[list[Operator], dict[str, StoredWeight]]:
    """Profile a variant of the catalog in this folder; return operators and stored weights."""
    if variant.runner == "onnx":
        files = artifact.read_all(folder / variant.name, variant)
        return profile_onnx(files[FILE], batch, threads=threads), Graph(files[FILE]).layers
    network, plan, tensors = load_rebuilt(folder / variant.name, model, variant)
    weights = _torch_weights(network, plan, tensors)
    card = variant.report_card(hardware(threads).key)
    kernels = None if card is None else card.kernels
    use_kernels(network, sparse_layers(network, plan, tensors), kernels)
    return profile_torch(network.eval(), batch), weights


def _unexplained(
    folder: Path, model: Model, dense: Variant, explained: Mapping[str, StoredWeight]
) -> tuple[str, ...]:
    """Return the weights of dense that are in no layer whose time is explained."""
    if dense.runner == "onnx":
        return Graph(artifact.read_all(folder / dense.name, dense)[FILE]).others
    network, _, _ = load_rebuilt(folder / dense.name, model, dense)
    return tuple(
        f"{name} {list(parameter.shape)}"
        for name, parameter in network.named_parameters()
        if parameter.ndim > 1 and name.removesuffix(".weight") not in explained
    )


def _torch_weights(
    network: nn.Module, plan: Plan, tensors: Mapping[str, torch.Tensor]
) -> dict[str, StoredWeight]:
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
        stored[name] = StoredWeight(
            tuple(weight.shape),
            form.removeprefix("torch."),
            float(is_zero.mean()),
            count_padding(is_zero),
        )
    return stored


def _latency(
    folder: Path,
    catalog: Catalog,
    variant: Variant,
    batch: Samples,
    batch_size: int,
    threads: int,
    seconds_per_point: float,
) -> tuple[BatchLatency, bool]:
    """Return the latency at the batch size, and whether it comes from the report card."""
    card = variant.report_card(hardware(threads).key)
    latencies = {each.batch_size: each for each in card.latencies} if card else {}
    if batch_size in latencies:
        return latencies[batch_size], True
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
    return measured[variant.name][0], False


def pair_layers(
    operators: Sequence[Operator],
    weights: Mapping[str, StoredWeight],
    dense_operators: Sequence[Operator],
    dense_weights: Mapping[str, StoredWeight],
) -> tuple[LayerTiming, ...]:
    """Pair the layers of a variant with those of dense by name, in dense's order."""
    compressed = {name: _execution(operators, name, stored) for name, stored in weights.items()}
    dense = {
        name: _execution(dense_operators, name, stored) for name, stored in dense_weights.items()
    }
    names = dict.fromkeys((*dense, *compressed))
    return tuple(LayerTiming(name, dense.get(name), compressed.get(name)) for name in names)


def _execution(
    operators: Sequence[Operator], name: str, stored: StoredWeight
) -> LayerExecution | None:
    of_layer = [operator for operator in operators if operator.layer == name]
    if not of_layer:
        return None
    longest = max(of_layer, key=lambda operator: operator.seconds)
    integer = next((operator for operator in of_layer if operator.arithmetic == "int8"), longest)
    return LayerExecution(
        shape=stored.shape,
        form=stored.form,
        zeros=stored.zeros,
        padding=stored.padding,
        arithmetic=integer.arithmetic,
        seconds=sum(operator.seconds for operator in of_layer),
    )


def _other_seconds(operators: Sequence[Operator]) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    for operator in operators:
        if operator.layer is None:
            seconds[operator.kind] += operator.seconds
    return dict(seconds)


def _rows(
    operators: Sequence[Operator], dense_operators: Sequence[Operator]
) -> tuple[OperatorRow, ...]:
    total = sum(operator.seconds for operator in operators)
    dense, variant = _grouped(dense_operators), _grouped(operators)
    rows = [
        OperatorRow(
            name=name,
            dense_kinds=_kinds(dense.get(name, ())),
            kinds=_kinds(variant.get(name, ())),
            dense_s=sum(operator.seconds for operator in dense.get(name, ())),
            seconds=(seconds := sum(operator.seconds for operator in variant.get(name, ()))),
            share=seconds / total if total else 0.0,
        )
        for name in dict.fromkeys((*dense, *variant))
    ]
    return tuple(sorted(rows, key=lambda row: -row.seconds))


def _grouped(operators: Sequence[Operator]) -> dict[str, list[Operator]]:
    groups: dict[str, list[Operator]] = defaultdict(list)
    for operator in operators:
        groups[operator.layer or f"({operator.kind})"].append(operator)
    return groups


def _kinds(operators: Sequence[Operator]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(operator.kind for operator in operators))
