from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.small import datasets
from variants.catalog.catalog import Catalog
from variants.measurement.footprint import measure_footprint


def test_resident_memory_grows_by_at_least_the_weights(small_catalog: Path) -> None:
    catalog = Catalog.load(small_catalog)
    for name, processes in (("dense", 2), ("sparse-2:4", 1)):  # one variant per runner
        variant = catalog.variants[name]
        footprint = measure_footprint(
            small_catalog,
            catalog.model,
            variant,
            datasets().test.samples,
            threads=1,
            batch_sizes=(1, 8),
            processes=processes,
        )
        assert variant.report_cards[0].weight_bytes < footprint.resident_bytes < 200e6
        load = footprint.load
        assert load.processes == processes
        assert 0 < load.least_s <= load.median_s <= load.most_s < 60
        assert load.median_s == pytest.approx(
            (load.least_s + load.most_s) / 2
        )  # the median of 2 or of 1
        if sys.platform == "linux":
            assert footprint.peak_bytes is not None
            assert footprint.resident_bytes <= footprint.peak_bytes < 200e6


def test_output_of_a_user_module_does_not_disturb_the_measurement(
    small_catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "printing.py").write_text(
        "import atexit, os\n"
        "from tests.small import network\n"
        "print('hello')\n"
        "os.system('echo from a child')\n"
        "atexit.register(print, 'bye')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    catalog = Catalog.load(small_catalog)
    model = catalog.model.model_copy(update={"factory": "printing:network"})
    sparse, samples = catalog.variants["sparse-2:4"], datasets().test.samples
    footprint = measure_footprint(
        small_catalog, model, sparse, samples, threads=1, batch_sizes=(1,), processes=1
    )
    assert footprint.load.median_s > 0


def test_a_failed_process_raises_an_error_with_its_last_line(small_catalog: Path) -> None:
    catalog = Catalog.load(small_catalog)
    lost = catalog.variants["dense"].model_copy(update={"name": "lost"})
    with pytest.raises(ValueError, match=r"memory of lost .*model\.onnx cannot be read"):
        measure_footprint(small_catalog, catalog.model, lost, datasets().test.samples, threads=1)
