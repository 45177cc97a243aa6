"""Report table on the layers of torch variants: the kernel of each, or why it is dense."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from variants.catalog.comparison import Cards
from variants.catalog.kernels import KernelTable, LayerKernels
from variants.report.text import Section


def kernel_sections(cards: Cards) -> Iterator[Section]:
    """Yield the table of kernels, if a variant has sparse layers."""
    tables = {name: card.kernels for name, card in cards.items() if card.kernels is not None}
    if not any(table.layers for table in tables.values()):
        return
    yield Section(
        "Kernels of layers",
        ("variant", "layer", "weight", "zeros", "stored as", "kernel by batch size"),
        tuple(row for name, table in tables.items() for row in _rows(name, table)),
        is_last_column_text=True,
        note=" ".join(
            (
                "In parentheses: time of torch's dense FP32 product of the layer, on a GPU of the "
                "fastest dense product, over that of the kernel.",
                *dict.fromkeys(_library(table) for table in tables.values()),
            )
        ),
    )


def describe_kernels(layer: LayerKernels) -> str:
    """Return the kernels of a layer by batch size with their speedups, and why it is dense."""
    parts = []
    for kernel, group in groupby(layer.choices, key=lambda choice: choice.kernel):
        choices = list(group)
        sizes = _range(*(f"{choices[i].rows // layer.rows_per_sample}" for i in (0, -1)))
        speedups = [choice.speedup for choice in choices]
        ratios = _range(*(f"{end:.2f}" for end in (min(speedups), max(speedups))))
        parts.append(f"{sizes}: {kernel} ({ratios}x)")
    listed = ", ".join(parts)
    if not layer.reason:
        return listed
    return f"{listed}; {layer.reason}" if listed else f"dense: {layer.reason}"


def _rows(name: str, table: KernelTable) -> Iterator[tuple[str, ...]]:
    for number, (layer_name, layer) in enumerate(table.layers.items()):
        yield (
            "" if number else name,
            layer_name,
            " x ".join(map(str, layer.shape)),
            f"{layer.zeros:.0%}",
            layer.kind,
            describe_kernels(layer),
        )


def _library(table: KernelTable) -> str:
    if table.missing:
        return f"No compiled kernels: {table.missing}."
    return f"Kernels compiled for {table.instruction_set}."


def _range(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"
