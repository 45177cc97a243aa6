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


def test_quantiles_are_computed_by_variant_and_size() -> None:
    took_s = np.concatenate([np.arange(1, 102) / 1e3, [0.5, 0.0]])
    count = len(took_s)
    result = summarize_timings(
        Batches(
            variant=np.array([1] * 101 + [0, 0], np.int16),
            size=np.array([4] * 101 + [1, 1], np.int32),
            sent_s=np.zeros(count),
            predicted_s=np.ones(count),
            took_s=took_s,
        ),
        ("dense", "int8", "sparse"),
    )
    assert result.variants["int8"][4].batches == 101
    assert result.variants["int8"][4].p50_s == pytest.approx(0.051)
    assert result.variants["int8"][4].p95_s == pytest.approx(0.096)
    assert result.variants["int8"][4].p99_s == pytest.approx(0.100)
    assert result.variants["dense"][1].batches == 1, "a batch of 0 s is ignored"
    assert result.variants.keys() == {"dense", "int8"}
    assert Timings.model_validate_json(result.model_dump_json()) == result


def measured(p50_s: float, p95_s: float, p99_s: float, batches: int = MIN_BATCHES) -> Timing:
    return Timing(batches=batches, p50_s=p50_s, p95_s=p95_s, p99_s=p99_s)


def test_quantiles_are_scaled_by_the_ratios_at_the_nearest_measured_sizes() -> None:
    """Cards: dense 5, 10, 20 ms at size 1 and 20, 40, 80 ms at 8; int8 2, 4, 8 and 5, 10, 20."""
    result = correct_profiles(
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
    assert result["dense"].latencies[1] == pytest.approx((0.010, 0.020, 0.040))
    assert result["dense"].latencies[8] == pytest.approx((0.020, 0.040, 0.080))
    assert result["dense"].latencies[64] == pytest.approx(PROFILES["dense"].latencies[64])
    assert result["int8"].latencies[8] == pytest.approx((0.1, 0.11, 0.12))
    # 20, 11 and 6 times the card: the quantiles of size 1 are 40, 44 and 48 ms
    assert result["int8"].latencies[1] == pytest.approx((0.040, 0.044, 0.048))
    # differences from the cards, by variant and size: dense 5, 0, 0 ms at the median, int8 38, 95
    assert result["sparse"].latencies[1] == pytest.approx((0.0025 + 0.005, 0.005 + 0.010, 0.030))


def test_corrected_quantiles_are_in_ascending_order() -> None:
    card = {1: LatencyQuantiles(0.005, 0.005, 0.005), 8: LatencyQuantiles(0.020, 0.040, 0.080)}
    steady = {"dense": replace(PROFILES["dense"], latencies=card)}
    result = correct_profiles(steady, Timings(variants={"dense": {8: measured(0.40, 0.40, 0.40)}}))
    # 20, 10 and 5 times the card
    assert result["dense"].latencies[1] == pytest.approx((0.1, 0.1, 0.1))


def test_timings_of_an_unknown_variant_are_rejected() -> None:
    with pytest.raises(
        ValueError, match=r"variant bf16, which is not in the catalog; its variants are dense"
    ):
        correct_profiles(PROFILES, Timings(variants={"bf16": {}}))
