from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from loadtests.benchmarks import kernels


@pytest.fixture(scope="module")
def by_name() -> dict[str, kernels.Kernel]:
    return kernels.kernels(64, 32)


def test_all_dense_kernels_multiply_by_the_same_weight(
    by_name: dict[str, kernels.Kernel],
) -> None:
    features = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    expected = by_name["dense, torch"].product(features)
    assert isinstance(expected, torch.Tensor)
    for name, kernel in by_name.items():
        result = kernel.product(features)
        result = torch.as_tensor(result[0] if isinstance(result, list) else result)
        assert result.shape == (3, 64)
        if "dense" in name:
            error = (result - expected).norm() / expected.norm()
            # onnxruntime's products saturate on processors with AVX2 and without VNNI.
            assert error < (0.2 if "INT8" in name else 1e-5)


def test_sparse_weights_are_smaller(by_name: dict[str, kernels.Kernel]) -> None:
    dense = by_name[kernels.PACKED].size_bytes
    assert by_name["2:4"].size_bytes == dense * 17 // 32
    assert by_name["2:4 INT8"].size_bytes < by_name["2:4"].size_bytes / 2


def test_a_ratio_is_that_of_the_medians_over_the_same_rounds() -> None:
    times = np.array([1.0, 2.0, 3.0, 100.0, 2.5])
    estimate = kernels.ratio(2 * times, times)
    assert (estimate.value, estimate.low, estimate.high) == (2.0, 2.0, 2.0)
    assert kernels.median(times).value == 2.5
    assert 1.0 <= kernels.median(times).low <= 2.5 <= kernels.median(times).high


def test_the_command_prints_a_table_of_the_selected_kernels() -> None:
    result = CliRunner().invoke(
        kernels.main,
        ["--shape", "64x32", "--rows", "2", "--threads", "1", "--kernel", "2:4",
         "--seconds", "0.01", "--markdown"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert [line.split(" | ")[1] for line in result.output.splitlines() if line[:4] == "| 2 "] == [
        "2:4", "dense, packed",
    ]  # fmt: skip
