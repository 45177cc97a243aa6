from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner

from loadtests.benchmarks import runtimes
from variants.catalog.catalog import Catalog
from variants.catalog.sample_request import read_batch


def test_all_variants_are_compared_and_those_of_torch_layer_by_layer(small_catalog: Path) -> None:
    catalog = Catalog.load(small_catalog)
    variants = catalog.variants
    compared = runtimes.runners(small_catalog, 1)
    inputs = read_batch(small_catalog, catalog.model, 1)
    layered = {f"{name}, layer by layer" for name, v in variants.items() if v.runner == "torch"}
    assert {*compared} == {*variants} | layered
    assert next(iter(compared)) == "dense"
    for name in layered:
        served = compared[name.removesuffix(", layer by layer")](inputs)
        result = compared[name](inputs)
        assert isinstance(served, dict)
        assert isinstance(result, torch.Tensor)
        (output,) = served.values()
        np.testing.assert_allclose(result.numpy(), output, atol=1e-4)


def test_the_command_prints_a_table(small_catalog: Path) -> None:
    result = CliRunner().invoke(
        runtimes.main, [str(small_catalog), "--batch-size", "2", "--seconds", "0.01", "--markdown"]
    )
    assert result.exit_code == 0, result.output
    assert "| dense |" in result.output
