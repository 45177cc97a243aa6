from __future__ import annotations

import numpy as np
import pytest

from loadtests.replay.client_statistics import summarize_client


def test_delays_start_at_the_arrival_and_waits_at_the_processing_of_a_request() -> None:
    intended_s = np.arange(101.0)
    due_s = intended_s + np.linspace(0, 0.1, 101)
    sent_s = due_s.copy()
    sent_s[3] += 0.25
    sent_s[5] = np.nan
    client = summarize_client(
        intended_s, due_s, sent_s, connections=7, cpu_s=0.5, is_real_time=True
    )
    assert client.delay_p50_s == pytest.approx(0.05)
    assert client.delay_p99_s == pytest.approx(0.099)
    assert client.delay_max_s == pytest.approx(0.1)
    assert client.waited == 2
    assert client.waited_max_s == pytest.approx(0.25)
    assert (client.connections, client.cpu_s, client.is_real_time) == (7, 0.5, True)


def test_check_rejects_a_client_whose_delay_exceeds_the_limit() -> None:
    times_s = np.arange(10.0)
    client = summarize_client(
        times_s, times_s + 0.003, times_s + 0.003, connections=1, cpu_s=0, is_real_time=False
    )
    client.check(limit_s=0.004)
    with pytest.raises(ValueError, match=r"3\.00 ms late.*limit is 2 ms.*Lower the rate"):
        client.check()
