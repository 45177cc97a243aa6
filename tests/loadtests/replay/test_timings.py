from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loadtests.replay.timings import (
    MIN_BATCHES,
    Timing,
    Timings,
    correct_profiles,
    summarize_timings,
)
from loadtests.trials.outcomes import Batches
from serving.routing.profile import LatencyQuantiles
from tests.loadtests.workload.profiles import PROFILES


def test_quantiles_are_by_variant_and_size() -> None:
    took_s = np.concatenate([np.arange(1, 102) / 1e3, [0.5, 0.0]])
    count = len(took_s)
    found = summarize_timings(
        Batches(
            variant=np.array([1] * 101 + [0, 0], np.int16),
            size=np.array([4] * 101 + [1, 1], np.int32),
            sent_s=np.zeros(count),
            predicted_s=np.ones(count),
            took_s=took_s,
        ),
        ("dense", "int8", "sparse"),
    )
    assert found.variants["int8"][4].batches == 101
    assert found.variants["int8"][4].p50_s == pytest.approx(0.051)
    assert found.variants["int8"][4].p95_s == pytest.approx(0.096)
    assert found.variants["int8"][4].p99_s == pytest.approx(0.100)
    assert found.variants["dense"][1].batches == 1, "one took no time that the clock could tell"
    assert found.variants.keys() == {"dense", "int8"}
    assert Timings.model_validate_json(found.model_dump_json()) == found


def measured(p50_s: float, p95_s: float, p99_s: float, batches: int = MIN_BATCHES) -> Timing:
    return Timing(batches=batches, p50_s=p50_s, p95_s=p95_s, p99_s=p99_s)


def test_each_quantile_is_scaled_by_what_was_seen_at_the_nearest_sizes() -> None:
    """Cards: dense 5, 10, 20 ms at size 1 and 20, 40, 80 ms at 8; int8 2, 4, 8 and 5, 10, 20."""
    found = correct_profiles(
        PROFILES,
        Timings(
            variants={
                "dense": {1: measured(0.010, 0.020, 0.040), 8: measured(0.020, 0.040, 0.080)},
                "int8": {
                    1: measured(0.009, 0.009, 0.009, MIN_BATCHES - 1),
                    8: measured(0.1, 0.11, 0.12),
                },
            }
        ),
    )
    assert found["dense"].latencies[1] == pytest.approx((0.010, 0.020, 0.040))
    assert found["dense"].latencies[8] == pytest.approx((0.020, 0.040, 0.080))
    assert found["dense"].latencies[64] == pytest.approx(PROFILES["dense"].latencies[64])
    assert found["int8"].latencies[8] == pytest.approx((0.1, 0.11, 0.12))
    # 20, 11 and 6 times the card: the quantiles of size 1 would be 40, 44 and 48 ms
    assert found["int8"].latencies[1] == pytest.approx((0.040, 0.044, 0.048))
    # more than the cards, by variant and size: dense 5, 0, 0 ms at the median, int8 38 and 95
    assert found["sparse"].latencies[1] == pytest.approx((0.0025 + 0.005, 0.005 + 0.010, 0.030))


def test_quantiles_never_cross() -> None:
    card = {1: LatencyQuantiles(0.005, 0.005, 0.005), 8: LatencyQuantiles(0.020, 0.040, 0.080)}
    steady = {"dense": replace(PROFILES["dense"], latencies=card)}
    found = correct_profiles(steady, Timings(variants={"dense": {8: measured(0.40, 0.40, 0.40)}}))
    # 20, 10 and 5 times the card
    assert found["dense"].latencies[1] == pytest.approx((0.1, 0.1, 0.1))


def test_timings_of_another_catalog_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"variant bf16, which is not in the catalog; its variants are dense"
    ):
        correct_profiles(PROFILES, Timings(variants={"bf16": {}}))
