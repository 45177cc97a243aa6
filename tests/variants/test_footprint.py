from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from variants.blank import zeros
from variants.catalog import Catalog, TensorSpec
from variants.footprint import resident_bytes


def test_a_fresh_process_grows_by_at_least_the_weights(small_catalog: Path) -> None:
    catalog = Catalog.load(small_catalog)
    for name in ("dense", "sparse-2:4"):  # one for each runner
        variant = catalog.variants[name]
        grown = resident_bytes(small_catalog, catalog.model, variant, threads=1, batch_sizes=(1, 8))
        assert variant.report_cards[0].weight_bytes < grown < 200e6


def test_what_the_process_said_last_is_passed_on(small_catalog: Path) -> None:
    catalog = Catalog.load(small_catalog)
    lost = catalog.variants["dense"].model_copy(update={"name": "lost"})
    with pytest.raises(ValueError, match=r"memory of lost .*model\.onnx cannot be read"):
        resident_bytes(small_catalog, catalog.model, lost, threads=1)


def test_an_input_has_its_type_and_shape() -> None:
    array = zeros(TensorSpec(name="x", datatype="UINT8", shape=(-1, 3, -1)), 5)
    assert array.shape == (5, 3, 1)
    assert array.dtype == np.uint8
