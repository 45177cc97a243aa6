import pytest

from loadtests.workload.capacity import capacity_per_s
from tests.loadtests.workload.profiles import OFFERS


def test_capacity_is_that_of_the_best_batch_size_by_medians_on_every_core() -> None:
    assert capacity_per_s(OFFERS) == pytest.approx(8 / 0.020)
    assert capacity_per_s(OFFERS, "int8", cores=2) == pytest.approx(2 * 8 / 0.005)


def test_capacity_of_an_unknown_variant_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="no variant 'int4'; the variants are dense, int8, sparse"):
        capacity_per_s(OFFERS, "int4")
