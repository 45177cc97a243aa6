from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loadtests.trials.calibration import NOMINAL, Calibration, calibration
from tests.loadtests.trials.sample_trial import BATCHES, unanswered_outcomes

VARIANTS = ("dense", "tiny", "never-ran")


def held() -> Calibration:
    found = calibration(BATCHES, VARIANTS, 4.0, window_s=1.0)
    assert found is not None
    return found


def test_coverage_is_the_share_of_batches_within_their_prediction_with_wilsons_interval() -> None:
    overall = held().overall
    assert (overall.batches, overall.within.value) == (5, 4 / 5)
    # (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with z = 1.96
    assert overall.within.low == pytest.approx(0.3755, abs=1e-4)
    assert overall.within.high == pytest.approx(0.9638, abs=1e-4)


def test_variants_that_ran_have_their_own_coverage() -> None:
    variants = held().variants
    assert {name: (of.batches, of.within.value) for name, of in variants.items()} == {
        "dense": (3, 1.0),
        "tiny": (2, 0.5),
    }


def test_ratios_tell_by_how_much_predictions_were_off() -> None:
    overall = held().overall  # 0.5, 0.8, 0.8333, 1, 1.3333
    assert overall.median_ratio == pytest.approx(1.0 / 1.2)
    assert overall.p95_ratio == pytest.approx(1 + 0.8 / 3)


def test_windows_are_by_when_batches_were_sent_and_empty_ones_are_left_out() -> None:
    assert [(w.start_s, w.coverage.batches, w.coverage.within.value) for w in held().windows] == [
        (0, 1, 1), (1, 1, 0), (2, 2, 1), (3, 1, 1),
    ]  # fmt: skip
    longer = calibration(BATCHES, VARIANTS, 8.0, window_s=1.0)
    assert longer is not None
    assert [window.start_s for window in longer.windows] == [0, 1, 2, 3]


def test_predictions_that_promise_too_much_have_an_interval_below_the_nominal_share() -> None:
    many = replace(
        BATCHES,
        variant=np.zeros(200, np.int16),
        sent_s=np.arange(200) / 50,
        predicted_s=np.ones(200),
        took_s=np.where(np.arange(200) < 180, 0.9, 1.1),
    )
    found = calibration(many, VARIANTS, 4.0)
    assert found is not None
    assert found.overall.within.value == 0.9
    assert found.overall.within.high < NOMINAL


def test_without_batches_there_is_nothing_to_say() -> None:
    batches = unanswered_outcomes().batches
    assert batches is not None
    assert calibration(batches, VARIANTS, 4.0) is None
