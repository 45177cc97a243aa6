from __future__ import annotations

import numpy as np
import pytest

from loadtests.replay.client_statistics import summarize_client


def test_lag_counts_from_the_intended_time_and_waits_from_when_the_client_came() -> None:
    intended_s = np.arange(101.0)
    due_s = intended_s + np.linspace(0, 0.1, 101)
    sent_s = due_s.copy()
    sent_s[3] += 0.25
    sent_s[5] = np.nan
    own = summarize_client(intended_s, due_s, sent_s, connections=7, cpu_s=0.5, is_real_time=True)
    assert own.delay_p50_s == pytest.approx(0.05)
    assert own.delay_p99_s == pytest.approx(0.099)
    assert own.delay_max_s == pytest.approx(0.1)
    assert own.waited == 2
    assert own.waited_max_s == pytest.approx(0.25)
    assert (own.connections, own.cpu_s, own.is_real_time) == (7, 0.5, True)


def test_a_client_that_was_late_too_often_refuses_its_own_numbers() -> None:
    times_s = np.arange(10.0)
    own = summarize_client(
        times_s, times_s + 0.003, times_s + 0.003, connections=1, cpu_s=0, is_real_time=False
    )
    own.check(limit_s=0.004)
    with pytest.raises(ValueError, match=r"3\.00 ms late.*limit is 2 ms.*Lower the rate"):
        own.check()
