from __future__ import annotations

from tests.variants.catalog.cards import card, catalog
from variants.catalog.kernels import KernelChoice, KernelTable, LayerKernels
from variants.report.kernels import describe_kernels
from variants.report.tables import render_markdown


def _choice(rows: int, kernel: str, speedup: float) -> KernelChoice:
    return KernelChoice(rows=rows, kernel=kernel, seconds=1e-6, dense_s=speedup * 1e-6)


LAYER = LayerKernels(
    kind="linear-2:4",
    shape=(2048, 784),
    zeros=0.5,
    choices=(_choice(1, "rows", 1.4), _choice(2, "rows", 1.9), _choice(4, "panel", 1.25)),
)
DENSE = LayerKernels(kind="dense", shape=(10, 2048), zeros=0, reason="no zeros")
TABLE = KernelTable(instruction_set="avx2", layers={"1": LAYER, "5": DENSE})


def test_batch_sizes_with_the_same_kernel_are_joined() -> None:
    assert describe_kernels(LAYER) == "1 to 2: rows (1.40 to 1.90x), 4: panel (1.25x)"


def test_rows_are_shown_as_batch_sizes() -> None:
    tokens = LAYER.model_copy(
        update={"rows_per_sample": 5, "choices": (_choice(5, "rows", 2), _choice(10, "rows", 2))}
    )
    assert describe_kernels(tokens) == "1 to 2: rows (2.00x)"


def test_dense_layers_show_the_reason() -> None:
    assert describe_kernels(DENSE) == "dense: no zeros"
    slow = LAYER.model_copy(update={"choices": (_choice(1, "dense", 1),), "reason": "not faster"})
    assert describe_kernels(slow) == "1: dense (1.00x); not faster"


def test_the_report_lists_the_layers_of_each_variant() -> None:
    sparse = card().model_copy(update={"kernels": TABLE})
    markdown = render_markdown(catalog({"dense": (card(),), "sparse": (sparse,)}))
    lines = markdown.split("### Kernels of layers")[1].split("###")[0].splitlines()
    assert lines[4:6] == [
        "| sparse | 1 | 2048 x 784 | 50% | linear-2:4 | 1 to 2: rows (1.40 to 1.90x), "
        "4: panel (1.25x) |",
        "|  | 5 | 10 x 2048 | 0% | dense | dense: no zeros |",
    ]
    assert "Kernels compiled for avx2." in lines[-2]


def test_missing_kernels_are_reported_with_the_reason() -> None:
    missing = TABLE.model_copy(update={"instruction_set": "", "missing": "there is no compiler"})
    markdown = render_markdown(
        catalog({"dense": (card(),), "s": (card().model_copy(update={"kernels": missing}),)})
    )
    assert "No compiled kernels: there is no compiler." in markdown


def test_catalogs_without_sparse_layers_have_no_such_table() -> None:
    assert "Kernels of layers" not in render_markdown(catalog({"dense": (card(),)}))
