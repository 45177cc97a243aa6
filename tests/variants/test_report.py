from __future__ import annotations

import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.variants.cards import around, card, catalog, latency
from variants.catalog import Catalog
from variants.report import megabytes, milliseconds, render_json, render_markdown, render_table

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


def test_answers_come_with_intervals_and_a_word() -> None:
    table = rows(render_markdown(CATALOG), "Answers")
    assert table["dense"] == [
        "90.12 [89.52, 90.72]",
        "+0.00",
        "98.00 [97.70, 98.30]",
        "reference",
    ]
    assert table["activation-pruned"][1] == "-0.08 [-0.20, +0.04]"
    assert table["activation-pruned"][-1] == "within noise"
    assert table["sparse-2:4"][-1] == "worse"


def test_speed_is_told_at_the_smallest_and_the_largest_batch() -> None:
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


def test_size_and_circumstances_are_told() -> None:
    markdown = render_markdown(CATALOG)
    assert rows(markdown, "Size")["dense"] == ["5,824,522", "2,924,554", "23.30", "23.30", "78.80"]
    assert rows(markdown, "Measured on") == {
        "": [""],
        "---": ["---"],
        "processor": ["Some CPU 1"],
        "flags": ["avx2"],
        "threads": ["1"],
        "libraries": ["python 3.11, onnxruntime 1.31.1"],
        "test samples": ["10,000"],
        "date": ["2026-01-01 00:00:00+00:00"],
    }


def test_a_hundred_columns_hold_every_row_on_one_line() -> None:
    text = terminal(CATALOG)
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= 100
    for cells in (
        ("activation-pruned", "90.04 [89.44, 90.64]", "-0.08 [-0.20, +0.04]", "within noise"),
        ("★ activation-pruned", "0.0712", "5.79 [5.59, 5.99]", "faster"),
        ("sparse-2:4", "5,824,522", "23.30", "78.80"),
    ):
        assert any(all(cell in line for cell in cells) for line in lines), cells


def test_what_a_terminal_would_style_is_said_literally() -> None:
    noted = catalog({"dense": (card(),)}, notes=("layers [0] and [bold] stay dense",))
    assert "layers [0] and [bold] stay dense" in terminal(noted)
    assert rows(render_markdown(noted), "Notes")["dense"] == ["layers [0] and [bold] stay dense"]


def test_cards_of_different_hardware_get_tables_of_their_own() -> None:
    other = card(0.5, key="other-t4", measured_at="2025-01-01")
    markdown = render_markdown(catalog({"dense": (card(), other), "int8": (card(),)}))
    first, second = markdown.split("## cpu-t1")[1].split("## other-t4")
    assert list(rows(first, "Answers"))[2:] == ["dense", "int8"]
    assert list(rows(second, "Answers"))[2:] == ["dense"]


def test_json_is_the_catalog_that_the_router_reads() -> None:
    assert Catalog.model_validate_json(render_json(CATALOG)) == CATALOG


def test_a_catalog_without_cards_says_so() -> None:
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
def test_durations_have_three_digits_that_matter(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text


def test_megabytes_are_millions_of_bytes() -> None:
    assert megabytes(1_234_567_890) == "1,234.57"


def test_reading_and_reporting_a_catalog_imports_no_torch() -> None:
    modules = "catalog, comparison, evaluation, frontier, hardware, profiling, report, report_plot"
    program = f"import sys; from variants import {modules}; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
