from __future__ import annotations

from dataclasses import replace

import numpy as np

from loadtests.trials.series import series, windows
from tests.loadtests.trials.sample_trial import ACCURACY, OUTCOMES, WORKLOAD


def test_a_request_counts_in_the_window_of_its_arrival() -> None:
    over_time = series(OUTCOMES, ACCURACY, window_s=1)
    assert over_time.starts_s.tolist() == [0, 1, 2, 3]
    assert over_time.demand_per_s.tolist() == [2, 2, 2, 2]
    assert over_time.goodput_per_s.tolist() == [2, 1, 1, 1]
    np.testing.assert_allclose(over_time.accuracy, [0.95, 0.875, 0.95, 0.8])
    assert over_time.violations.tolist() == [0, 0.5, 0.5, 0.5]
    assert over_time.variant_shares.tolist() == [[1, 0.5, 1, 0], [0, 0.5, 0, 1]]
    assert over_time.batch_size.tolist() == [2, 1, 1, 1]


def test_rates_are_per_second_for_any_width() -> None:
    over_time = series(OUTCOMES, ACCURACY, window_s=2)
    assert over_time.width_s == 2
    assert over_time.demand_per_s.tolist() == [2, 2]
    assert over_time.goodput_per_s.tolist() == [1.5, 1]
    # requests 0 and 1 share a batch, 2 and 3 have one each
    assert over_time.batch_size.tolist() == [4 / 3, 1]


def test_an_empty_window_has_no_means() -> None:
    late = replace(WORKLOAD, seconds=6.0)
    over_time = series(replace(OUTCOMES, workload=late), ACCURACY, window_s=1)
    assert over_time.demand_per_s.tolist() == [2, 2, 2, 2, 0, 0]
    assert np.isnan(over_time.accuracy[4:]).all()
    assert np.isnan(over_time.violations[4:]).all()
    assert np.isnan(over_time.batch_size[4:]).all()
    assert over_time.variant_shares[:, 4:].tolist() == [[0, 0], [0, 0]]


def test_the_number_of_windows_is_rounded_and_times_outside_are_in_the_outer_ones() -> None:
    place, starts_s = windows(np.array([-0.5, 0.0, 1.24, 1.26, 2.5, 9.0]), 2.5, 1.2)
    assert starts_s.tolist() == [0, 1.25]
    assert place.tolist() == [0, 0, 0, 1, 1, 1]
    assert windows(np.array([0.3]), 0.5, 10)[1].tolist() == [0]
