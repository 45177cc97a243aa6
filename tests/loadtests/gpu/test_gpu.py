from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from loadtests.gpu.catalog import (
    BATCHES,
    Served,
    catalog_grid,
    measure_catalog,
    relative_difference,
)
from loadtests.gpu.deadline import Deadline
from loadtests.gpu.products import (
    Alone,
    alone_grid,
    measure_alone,
    random_layer,
    served_grid,
    wrong,
)
from tests.variants.runtime.gpu.needs_gpu import NEEDS_GPU, WITHOUT_GPU
from variants.catalog.device import gpu_names
from variants.catalog.kernels import KernelChoice, LayerKernels
from variants.runtime.gpu.algorithms import AlgorithmCache
from variants.runtime.sparse.forms import SparseKind, is_2_of_4

ALONE = Alone(
    "2048x2048",
    64,
    seconds={"dense FP16": 2e-5, "2:4 FP16, algorithm 0": 3e-5, "2:4 FP16": 1e-5},
    errors={"dense FP16": 1e-4, "2:4 FP16": 1e-4},
    algorithms={"float16": 12},
)


@WITHOUT_GPU
def test_without_a_gpu_it_ends_with_one_sentence() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "loadtests.gpu"], capture_output=True, text=True, timeout=120
    )
    assert (run.returncode, run.stdout) == (1, "")
    (line,) = run.stderr.splitlines()
    assert line.startswith("nothing was measured: the device `cuda` cannot be used")


def test_the_deadline_ends_a_run_and_states_what_is_left_out() -> None:
    now = 0.0
    deadline = Deadline(10, clock=lambda: now)
    assert deadline.allows("first")
    now = 10.0
    assert not deadline.allows("second")
    assert deadline.left_out == ["second"]


def test_a_wrong_answer_is_named() -> None:
    bad = ALONE._replace(errors={"2:4 FP16": 0.5, "2:4 INT8": float("nan"), "dense FP16": 1e-4})
    assert wrong([ALONE]) == []
    assert [line.split(" of ")[0] for line in wrong([bad])] == ["2:4 FP16", "2:4 INT8"]


def test_the_table_of_products_has_the_ratios_of_what_was_timed() -> None:
    (row,) = alone_grid([ALONE]).rows
    assert row == ("2048x2048", "64", "20.0", "30.0", "10.0", "-", "-", "2.00", "-", "12")


def test_the_table_of_layers_has_a_line_for_each_number_of_rows() -> None:
    choices = (
        KernelChoice(rows=1, kernel="dense", seconds=1e-5, dense_s=1e-5),
        KernelChoice(rows=64, kernel="2:4", seconds=1e-5, dense_s=2e-5, algorithm=3),
    )
    layer = LayerKernels(kind="linear-2:4", shape=(32, 64), zeros=0.5, choices=choices)
    rows = served_grid([("32x64", layer)]).rows
    assert [row[2:6] for row in rows] == [
        ("1", "dense", "10.0", "1.00"),
        ("64", "2:4", "10.0", "2.00"),
    ]


@pytest.mark.parametrize("kind", ["linear-2:4", "linear-2:4-int8"])
def test_random_layers_are_2_of_4_sparse(kind: SparseKind) -> None:
    weights = random_layer("32x64", kind)
    assert weights.weight.shape == (32, 64)
    assert is_2_of_4(weights.weight)


def test_the_difference_is_relative_and_a_nan_is_never_small() -> None:
    one = np.ones(4, np.float32)
    assert relative_difference(one, one) == 0
    assert relative_difference(1.5 * one, one) == pytest.approx(0.5)
    assert not relative_difference(np.full(4, np.nan), one) <= 1


def test_variants_are_compared_with_the_cpu_and_a_device_that_is_missing_is_stated(
    small_catalog: Path,
) -> None:
    results = list(measure_catalog(small_catalog, Deadline(600), ("cpu", "cuda")))
    on_cpu = [each for each in results if each.provider in ("CPUExecutionProvider", "torch CPU")]
    assert len(on_cpu) == len(results) / 2
    for each in on_cpu:
        assert each.seconds.keys() == {*BATCHES}
        assert (each.difference, each.problem) == (0.0, "")
    if not gpu_names():
        problems = [each.problem for each in results if each not in on_cpu]
        assert all("the device `cuda`" in problem for problem in problems)
    assert len(catalog_grid(results).rows) == len(results)


def test_a_run_without_time_measures_nothing(small_catalog: Path) -> None:
    deadline = Deadline(0)
    assert list(measure_catalog(small_catalog, deadline)) == []
    assert deadline.left_out[0] == "dense from end to end"


def test_a_problem_is_shown_in_place_of_times() -> None:
    (row,) = catalog_grid([Served("dense", "CUDAExecutionProvider", {}, 0.0, {}, "no GPU")]).rows
    assert row == ("dense", "CUDAExecutionProvider", *"-" * len(BATCHES), "-", "no GPU")


@NEEDS_GPU
def test_products_are_right_on_this_gpu(tmp_path: Path) -> None:
    cache = AlgorithmCache(tmp_path / "algorithms.json")
    assert wrong(list(measure_alone(Deadline(30), cache))) == []
