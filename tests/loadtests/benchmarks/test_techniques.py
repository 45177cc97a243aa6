from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtests.benchmarks.techniques import COLUMNS, latest_hardware_key, main, rows
from variants.catalog.artifact import RECORD, write_record
from variants.catalog.catalog import Catalog


def test_every_variant_has_a_row_with_the_values_of_its_report_card(small_catalog: Path) -> None:
    catalog = Catalog.load(small_catalog)
    lines = {
        line[0].removeprefix("small: "): line
        for line in rows(small_catalog, catalog, latest_hardware_key(small_catalog, catalog))
    }
    assert lines.keys() == catalog.variants.keys()
    assert {len(line) for line in lines.values()} == {len(COLUMNS)}
    cards = {name: variant.report_cards[0] for name, variant in catalog.variants.items()}
    int8, dense = cards["int8"], cards["dense"]
    assert lines["int8"][4] == f"{100 * int8.weight_bytes / dense.weight_bytes:.1f}%"
    assert lines["int8"][5].startswith(f"{100 * int8.accuracy_difference.value:+.2f} [")
    (at_1,) = (each.speedup.value for each in int8.latencies if each.batch_size == 1)
    assert lines["int8"][6].startswith(f"{at_1:.2f} [")
    assert lines["int8"][7] == "-"  # the small catalog has no measurement at 16
    assert lines["dense"][4] == "100.0%"
    assert lines["sparse-2:4"][2] != lines["dense"][2]


def test_several_catalogs_are_shown_in_one_table(small_catalog: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(small_catalog, tmp_path / "copy")
    arguments = [str(small_catalog), str(copy), "--markdown"]
    output = CliRunner().invoke(main, arguments, catch_exceptions=False).output
    assert output.count("| small: dense |") == 2
    assert output.count("| model and variant |") == 1


def test_the_error_names_a_variant_without_a_report_card(
    small_catalog: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(small_catalog, tmp_path / "copy")
    complete = Catalog.load(copy)
    unmeasured = complete.variants["int8"].model_copy(update={"report_cards": ()})
    write_record(copy / "int8" / RECORD, unmeasured)
    incomplete, key = Catalog.load(copy), latest_hardware_key(small_catalog, complete)
    with pytest.raises(
        ValueError, match=r"no report card on .* for int8; run `paretoserve measure`"
    ):
        list(rows(copy, incomplete, key))
