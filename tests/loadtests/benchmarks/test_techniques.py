from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtests.benchmarks.techniques import COLUMNS, main, measured_on, rows
from variants.catalog.artifact import RECORD, write_record
from variants.catalog.catalog import Catalog


def test_every_variant_has_a_row_of_what_its_card_says(small_catalog: Path) -> None:
    catalog = Catalog.load(small_catalog)
    lines = {
        line[0].removeprefix("small: "): line
        for line in rows(small_catalog, catalog, measured_on(small_catalog, catalog))
    }
    assert lines.keys() == catalog.variants.keys()
    assert {len(line) for line in lines.values()} == {len(COLUMNS)}
    cards = {name: variant.report_cards[0] for name, variant in catalog.variants.items()}
    int8, dense = cards["int8"], cards["dense"]
    assert lines["int8"][4] == f"{100 * int8.weight_bytes / dense.weight_bytes:.1f}%"
    assert lines["int8"][5].startswith(f"{100 * int8.accuracy_difference.value:+.2f} [")
    (at_1,) = (one.speedup.value for one in int8.latencies if one.batch_size == 1)
    assert lines["int8"][6].startswith(f"{at_1:.2f} [")
    assert lines["int8"][7] == "-"  # the small catalog was not measured at 16
    assert lines["dense"][4] == "100.0%"
    assert lines["sparse-2:4"][2] != lines["dense"][2]


def test_catalogs_come_one_after_the_other_in_one_table(
    small_catalog: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(small_catalog, tmp_path / "copy")
    asked = [str(small_catalog), str(copy), "--markdown"]
    said = CliRunner().invoke(main, asked, catch_exceptions=False).output
    assert said.count("| small: dense |") == 2
    assert said.count("| model and variant |") == 1


def test_a_variant_that_was_not_measured_there_is_named(
    small_catalog: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(small_catalog, tmp_path / "copy")
    whole = Catalog.load(copy)
    never = whole.variants["int8"].model_copy(update={"report_cards": ()})
    write_record(copy / "int8" / RECORD, never)
    partly, key = Catalog.load(copy), measured_on(small_catalog, whole)
    with pytest.raises(ValueError, match=r"no card on .* of int8; run `paretoserve measure`"):
        list(rows(copy, partly, key))
