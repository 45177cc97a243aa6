from __future__ import annotations

import numpy as np

from loadtests.onthefly.phases import Phase, summarize
from loadtests.replay.request_log import DISCONNECTED
from loadtests.steady.load import UNSENT, LoadRecord


def test_requests_belong_to_the_phase_in_which_they_were_due_and_are_counted_by_their_end() -> None:
    due_s = np.array([0.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 2.0])
    latency_s = np.array([0.05, 0.05, 0.2, 0.01, 0.01, 0.01, 0.01, 0.05])
    status = np.array([200, 200, 200, 429, 503, UNSENT, DISCONNECTED, 200], np.int16)
    record = LoadRecord(0.0, due_s, due_s + latency_s, status, np.empty(0), cpu_share=0.1)
    phases = [Phase("before", 0.0, 1.0), Phase("add", 1.0, 2.0)]
    before, add = summarize(phases, record, deadline_s=0.1)
    assert (before.requests, before.on_time, before.failed) == (1, 1, 0)
    assert (add.requests, add.on_time, add.refused, add.unsent) == (6, 1, 1, 1)
    assert (add.failed, add.failures) == (2, {503: 1, DISCONNECTED: 1})
