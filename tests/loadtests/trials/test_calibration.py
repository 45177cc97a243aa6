from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loadtests.trials.calibration import NOMINAL, Calibration, calibration
from tests.loadtests.trials.sample_trial import BATCHES, unanswered_outcomes

VARIANTS = ("dense", "tiny", "unused")


def measured() -> Calibration:
    result = calibration(BATCHES, VARIANTS, 4.0, window_s=1.0)
    assert result is not None
    return result


def test_coverage_is_the_share_of_batches_within_their_prediction_with_wilsons_interval() -> None:
    overall = measured().overall
    assert (overall.batches, overall.within.value) == (5, 4 / 5)
    # (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with z = 1.96
    assert overall.within.low == pytest.approx(0.3755, abs=1e-4)
    assert overall.within.high == pytest.approx(0.9638, abs=1e-4)


def test_coverage_is_also_by_variant_with_batches() -> None:
    variants = measured().variants
    assert {name: (of.batches, of.within.value) for name, of in variants.items()} == {
        "dense": (3, 1.0),
        "tiny": (2, 0.5),
    }


def test_ratios_are_actual_over_predicted_times() -> None:
    overall = measured().overall  # 0.5, 0.8, 0.8333, 1, 1.3333
    assert overall.median_ratio == pytest.approx(1.0 / 1.2)
    assert overall.p95_ratio == pytest.approx(1 + 0.8 / 3)


def test_windows_are_by_sending_time_and_empty_ones_are_omitted() -> None:
    windows = measured().windows
    assert [(w.start_s, w.coverage.batches, w.coverage.within.value) for w in windows] == [
        (0, 1, 1), (1, 1, 0), (2, 2, 1), (3, 1, 1),
    ]  # fmt: skip
    longer = calibration(BATCHES, VARIANTS, 8.0, window_s=1.0)
    assert longer is not None
    assert [window.start_s for window in longer.windows] == [0, 1, 2, 3]


def test_too_short_predictions_have_an_interval_below_the_nominal_share() -> None:
    many = replace(
        BATCHES,
        variant=np.zeros(200, np.int16),
        sent_s=np.arange(200) / 50,
        predicted_s=np.ones(200),
        took_s=np.where(np.arange(200) < 180, 0.9, 1.1),
    )
    result = calibration(many, VARIANTS, 4.0)
    assert result is not None
    assert result.overall.within.value == 0.9
    assert result.overall.within.high < NOMINAL


def test_without_batches_there_is_no_calibration() -> None:
    batches = unanswered_outcomes().batches
    assert batches is not None
    assert calibration(batches, VARIANTS, 4.0) is None
