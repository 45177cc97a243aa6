import pytest

from loadtests.workload.capacity import capacity_per_s
from tests.loadtests.workload.profiles import PROFILES


def test_capacity_is_that_of_the_best_batch_size_by_medians_times_the_cores() -> None:
    assert capacity_per_s(PROFILES) == pytest.approx(8 / 0.020)
    assert capacity_per_s(PROFILES, "int8", cores=2) == pytest.approx(2 * 8 / 0.005)


def test_an_unknown_variant_is_rejected_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no variant 'int4'; the variants are dense, int8, sparse"):
        capacity_per_s(PROFILES, "int4")
