from __future__ import annotations

import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.variants.catalog.cards import answers, around, card, catalog, class_difference, latency
from variants.catalog.catalog import Catalog, Timing
from variants.catalog.coverage import StepCoverage, Untouched
from variants.catalog.recipe import Step
from variants.report.tables import (
    overview_markdown,
    render_json,
    render_markdown,
    render_overview,
    render_table,
)
from variants.report.text import millions, milliseconds, probability, size, size_unit

CATALOG = catalog(
    {
        "dense": (card(0.9012, latency(1, 0.000412), latency(64, 0.00384)),),
        "activation-pruned": (
            card(
                0.9004,
                latency(1, 0.0000712, around(5.79, 0.2)),
                latency(64, 0.00390, around(0.98, 0.03)),
                difference=around(-0.0008, 0.0012),
            ),
        ),
        "sparse-2:4": (
            card(
                0.8950,
                latency(1, 0.000957, around(0.43, 0.01)),
                latency(64, 0.00806, around(0.48, 0.01)),
                difference=around(-0.0062, 0.0020),
                comparison=answers(
                    class_difference(0, around(0.01, 0.02), 0.3),
                    class_difference(1, around(-0.0235, 0.01), 0.0004),
                    class_difference(2, around(-0.005, 0.02)),
                    class_difference(3, around(0, 0.01)),
                    lost=1_234,
                    gained=567,
                    most_hit=(9_000, 17, 4),
                ),
            ),
        ),
    }
)


def terminal(catalog: Catalog, width: int = 100) -> str:
    out = StringIO()
    Console(file=out, width=width).print(render_table(catalog))
    return out.getvalue()


def rows(markdown: str, title: str) -> dict[str, list[str]]:
    """Return a table of the Markdown by its first column."""
    lines = markdown.split(f"### {title}\n\n")[1].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(line) for line in cells}) == 1
    return {line[0]: line[1:] for line in cells}


def test_accuracies_have_intervals_and_a_verdict() -> None:
    table = rows(render_markdown(CATALOG), "Accuracy")
    assert table["dense"] == [
        "90.12 [89.52, 90.72]",
        "+0.00",
        "98.00 [97.70, 98.30]",
        "reference",
    ]
    assert table["activation-pruned"][1] == "-0.08 [-0.20, +0.04]"
    assert table["activation-pruned"][-1] == "within noise"
    assert table["sparse-2:4"][-1] == "worse"


def test_changed_answers_are_counted_in_both_directions() -> None:
    table = rows(render_markdown(CATALOG), "Changed answers")
    assert table["sparse-2:4"] == ["1,234", "567", "12.30 [11.90, 12.70]", "3.25"]
    table = rows(render_markdown(CATALOG), "Confidence calibration")
    assert table["sparse-2:4"] == ["93.45", "89.50", "4.56", "0.1512"]
    table = rows(render_markdown(CATALOG), "Most confident new errors")
    assert "dense" not in table
    assert table["activation-pruned"] == ["-"]
    assert table["sparse-2:4"] == ["9000 17 4"]


def test_the_three_worst_classes_have_a_verdict() -> None:
    lines = render_markdown(CATALOG).split("### Worst classes")[1].splitlines()
    assert "| sparse-2:4 | 1 | 1,000 | 90.00 | -2.35 [-3.35, -1.35] | <0.001 | worse |" in lines
    first = lines.index(next(line for line in lines if line.startswith("| sparse-2:4")))
    assert [line.split("|")[2].strip() for line in lines[first : first + 3]] == ["1", "2", "3"]
    assert lines[first + 1].endswith("| within noise |")
    assert not lines[first + 3].startswith("|")


def test_a_catalog_of_dense_alone_has_no_comparisons() -> None:
    markdown = render_markdown(catalog({"dense": (card(),)}))
    assert "Worst classes" not in markdown
    assert "Most confident new errors" not in markdown


def test_the_faster_runtime_of_dense_is_reported() -> None:
    both = catalog(
        {
            "dense": (
                card(
                    0.9,
                    latency(1, 0.004, dense_p50_s={"onnx": 0.004, "torch": 0.006}),
                    latency(64, 0.08, around(0.75, 0.01), {"onnx": 0.08, "torch": 0.06}),
                ),
            ),
        }
    )
    markdown = render_markdown(both)
    assert "Dense: 4.00 ms in onnx (the reference), 6.00 ms in torch." in markdown
    assert "Dense: 60.0 ms in torch (the reference), 80.0 ms in onnx." in markdown
    assert "Reference runtimes: 1 onnx, 64 torch." in markdown
    assert rows(markdown, "Speed at batch 1")["★ dense"][-1] == "reference"
    assert rows(markdown, "Speed at batch 64")["★ dense"][-1] == "slower"


def test_the_crossover_lists_ranges_of_batch_sizes() -> None:
    def crossover(*speedups: float) -> str:
        sizes = (1, 2, 4, 8)
        latencies = [
            latency(n, 0.001, around(s, 0.01)) for n, s in zip(sizes, speedups, strict=True)
        ]
        both = catalog({"dense": (card(),), "int8": (card(0.9, *latencies),)})
        return rows(render_markdown(both), "Crossover")["int8"][0]

    assert crossover(2, 2, 2, 2) == "all"
    assert crossover(1, 1, 1, 1) == "none"
    assert crossover(2, 2, 1, 1) == "1 to 2"
    assert crossover(0.5, 0.5, 2, 2) == "4 and up"
    assert crossover(2, 0.5, 2, 0.5) == "1, 4"


def test_speed_is_reported_at_the_smallest_and_the_largest_batch_size() -> None:
    markdown = render_markdown(CATALOG)
    assert rows(markdown, "Speed at batch 1")["★ activation-pruned"] == [
        "0.0712",
        "0.142",
        "0.214",
        "14,045",
        "5.79 [5.59, 5.99]",
        "faster",
    ]
    at_64 = rows(markdown, "Speed at batch 64")
    assert at_64["activation-pruned"][-1] == "same within noise"
    assert at_64["sparse-2:4"][-1] == "slower"
    assert at_64["★ dense"][-2:] == ["1.00", "reference"]


def test_every_batch_size_is_in_the_latency_table() -> None:
    markdown = render_markdown(CATALOG)
    table = rows(markdown, "Latency by batch size, ms")
    assert table["variant"] == ["", "1", "64"]
    assert table["sparse-2:4"] == ["p50", "0.957", "8.06"]
    assert "|  | p99 | 0.214 | 11.7 |" in markdown
    assert "|  | speedup | 5.79x | (0.98x) |" in markdown


def test_sizes_storage_and_memory_are_reported() -> None:
    markdown = render_markdown(CATALOG)
    assert rows(markdown, "Size")["dense"] == ["5,824,522", "2,924,554", "5.820", "2.910"]
    assert rows(markdown, "Storage, MB")["dense"] == ["23.30", "23.30", "21.60", "23.30"]
    table = rows(markdown, "Load time and memory")
    assert table["dense"] == ["42.1", "40.0", "55.3", "78.80", "101.20"]


def test_missing_measurements_are_shown_as_a_dash() -> None:
    bare = card().model_copy(update={"macs": None, "peak_bytes": None})
    markdown = render_markdown(catalog({"dense": (bare,)}))
    assert rows(markdown, "Size")["dense"][-2:] == ["-", "-"]
    assert rows(markdown, "Load time and memory")["dense"][-1] == "-"


def test_the_circumstances_of_the_measurement_are_reported() -> None:
    assert rows(render_markdown(CATALOG), "Measurement") == {
        "": [""],
        "---": ["---"],
        "processor": ["Some CPU 1"],
        "flags": ["avx2"],
        "threads": ["1"],
        "CPUs of the process": ["unknown"],
        "GPU": ["none used"],
        "load average": ["0.25"],
        "libraries": ["python 3.11, onnxruntime 1.31.1"],
        "commit": ["c0ffee"],
        "seed": ["7"],
        "weights, sha256": ["unknown"],
        "datasets, sha256": ["unknown"],
        "test samples": ["10,000"],
        "timing": ["unknown"],
        "date": ["2026-01-01 00:00:00+00:00"],
    }


def test_a_recipe_is_shown_step_by_step() -> None:
    measured = catalog({"dense": (card(),), "pruned": (card(),)})
    steps = (
        Step(technique="activation-pruning", parameters={"mean_below": 0.5, "seed": 3}),
        Step(technique="recover"),
    )
    pruned = measured.variants["pruned"].model_copy(update={"recipe": steps})
    measured = measured.model_copy(update={"variants": {**measured.variants, "pruned": pruned}})
    table = rows(render_markdown(measured), "Recipes")
    assert table["dense"] == ["onnx", "-", "as trained"]
    assert table["pruned"][2] == "activation-pruning(mean_below=0.5, seed=3), then recover"


def test_the_provider_the_gpu_and_its_memory_are_reported() -> None:
    on_gpu = card().model_copy(
        update={
            "hardware": card().hardware.model_copy(update={"device": "cuda", "gpu": "NVIDIA H200"}),
            "provider": "CUDAExecutionProvider",
            "elsewhere": {"CPUExecutionProvider": ("DynamicQuantizeLinear",)},
            "gpu_bytes": 512_000_000,
        }
    )
    text = render_markdown(catalog({"dense": (on_gpu,)}))
    assert rows(text, "Recipes")["dense"] == ["onnx", "CUDA", "as trained"]
    assert "Of dense, CPUExecutionProvider runs DynamicQuantizeLinear." in text
    assert rows(text, "Measurement")["GPU"] == ["NVIDIA H200"]
    assert rows(text, "Load time and memory")["dense"][-1] == "512.00"
    assert "GPU, MB" not in render_markdown(CATALOG)


def test_the_overview_has_a_line_for_each_variant() -> None:
    out = StringIO()
    Console(file=out, width=90).print(render_overview(CATALOG))
    lines = out.getvalue().splitlines()
    (line,) = (line for line in lines if "sparse-2:4" in line)
    for cell in ("89.50%", "-0.62 [-0.82, -0.42]", "0.957 (0.43x)", "8.06 (0.48x)", "23.30"):
        assert cell in line


def test_every_row_fits_on_one_line_of_100_columns() -> None:
    text = terminal(CATALOG)
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= 100
    for cells in (
        ("activation-pruned", "90.04 [89.44, 90.64]", "-0.08 [-0.20, +0.04]", "within noise"),
        ("★ activation-pruned", "0.0712", "5.79 [5.59, 5.99]", "faster"),
        ("sparse-2:4", "5,824,522", "5.820"),
        ("sparse-2:4", "42.1", "78.80", "101.20"),
        ("sparse-2:4", "1,234", "12.30 [11.90, 12.70]"),
        ("sparse-2:4", "-2.35 [-3.35, -1.35]", "<0.001", "worse"),
    ):
        assert any(all(cell in line for cell in cells) for line in lines), cells


def test_markup_of_the_terminal_is_escaped() -> None:
    noted = catalog({"dense": (card(),)}, notes=("layers [0] and [bold] stay dense",))
    assert "layers [0] and [bold] stay dense" in terminal(noted)
    assert rows(render_markdown(noted), "Notes")["dense"] == ["layers [0] and [bold] stay dense"]


def test_cards_of_different_hardware_have_separate_tables() -> None:
    other = card(0.5, key="other-t4", measured_at="2025-01-01")
    markdown = render_markdown(catalog({"dense": (card(), other), "int8": (card(),)}))
    first, second = markdown.split("## cpu-t1")[1].split("## other-t4")
    assert list(rows(first, "Accuracy"))[2:] == ["dense", "int8"]
    assert list(rows(second, "Accuracy"))[2:] == ["dense"]


def test_the_json_report_is_the_catalog_itself() -> None:
    assert Catalog.model_validate_json(render_json(CATALOG)) == CATALOG


def test_a_catalog_without_report_cards_has_a_placeholder() -> None:
    bare = catalog({"dense": ()})
    assert "No variant has a report card yet." in terminal(bare)
    assert render_markdown(bare).startswith("# Report cards of shirts")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00007123, "0.0712"),
        (0.0004123, "0.412"),
        (0.0041, "4.10"),
        (0.0123, "12.3"),
        (1.34, "1,340"),
    ],
)
def test_durations_have_three_significant_digits(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text


def test_millions_have_four_significant_digits() -> None:
    counts = (118_500, 5_820_416, 12_345_678, 123_456_789, 1_204_000_000)
    assert [millions(n) for n in counts] == ["0.1185", "5.820", "12.35", "123.5", "1,204"]


def test_p_values_below_a_thousandth_are_not_shown_exactly() -> None:
    assert [probability(p) for p in (1.0, 0.0374, 0.001, 0.0009)] == [
        "1.000", "0.037", "0.001", "<0.001",
    ]  # fmt: skip


def test_sizes_are_in_kb_if_the_smallest_is_under_a_megabyte() -> None:
    assert size(1_234_567_890, "MB") == "1,234.57"
    assert size(20_480, "kB") == "20.48"
    assert size_unit((23_300_000, None, 1_000_000)) == "MB"
    assert size_unit((23_300_000, 999_999)) == "kB"
    assert size_unit((None,)) == "MB"


def test_quick_cards_say_so() -> None:
    dense = CATALOG.variants["dense"]
    (full,) = dense.report_cards
    quick = full.model_copy(update={"timing": Timing(seconds_per_point=0.2, is_quick=True)})
    cards = {**CATALOG.variants, "dense": dense.model_copy(update={"report_cards": (quick,)})}
    marked = CATALOG.model_copy(update={"variants": cards})
    assert "less certain: dense." in overview_markdown(marked)
    assert "less certain" not in overview_markdown(CATALOG)
    assert "quick: 0.2 s per point" in render_markdown(marked)


def test_the_coverage_of_each_step_is_a_table() -> None:
    left = Untouched(layer="rnn", kind="GRU", weights=90, reason="int8 changes Linear")
    step = StepCoverage(technique="int8", weights=100, touched=10, untouched=(left,))
    dense = CATALOG.variants["dense"].model_copy(update={"coverage": (step,)})
    shown = render_markdown(
        CATALOG.model_copy(update={"variants": {**CATALOG.variants, "dense": dense}})
    )
    assert "| dense | int8 | 10.0% | rnn (GRU, 90 weights: int8 changes Linear) |" in shown
    assert "### Coverage" not in render_markdown(CATALOG)


def test_reading_and_reporting_a_catalog_imports_no_torch() -> None:
    modules = (
        "catalog.comparison", "catalog.hardware", "measurement.evaluation",
        "measurement.profiling", "measurement.provenance", "measurement.quality", "report.files",
    )  # fmt: skip
    imports = ", ".join(f"variants.{module}" for module in modules)
    program = f"import sys, {imports}; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
