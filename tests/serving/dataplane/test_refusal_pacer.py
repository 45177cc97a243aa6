from __future__ import annotations

import pytest

from serving.dataplane.refusal_pacer import BURST_S, INTERVAL_S, MAX_HOLD_S, RefusalPacer


def test_few_refusals_are_sent_at_once() -> None:
    pacer = RefusalPacer()
    assert [pacer.hold_s(number * 0.01) for number in range(1_000)] == [0.0] * 1_000


def test_many_refusals_are_spaced_evenly() -> None:
    pacer = RefusalPacer()
    at = [pacer.hold_s(5.0) for _ in range(200)]
    burst = round(BURST_S / INTERVAL_S)
    assert at[:burst] == [0.0] * burst
    assert at[-1] - at[burst] == pytest.approx((199 - burst) * INTERVAL_S)
    assert at == sorted(at)


def test_no_refusal_is_held_longer_than_retry_after_asks_for() -> None:
    pacer = RefusalPacer()
    assert max(pacer.hold_s(5.0) for _ in range(5_000)) == pytest.approx(MAX_HOLD_S)


def test_refusals_that_are_held_longest_are_not_sent_together() -> None:
    pacer = RefusalPacer()
    held_s = [pacer.hold_s(5.0) for _ in range(5_000)]
    counts = [sum(low <= s < low + 0.05 for s in held_s) for low in (0.55, 0.65, 0.75, 0.85)]
    assert max(counts) < 1.2 * min(counts)


def test_clients_that_come_back_at_once_are_slowed_down() -> None:
    pacer, now, refused = RefusalPacer(), 0.0, 0
    back_at = [0.0] * 150
    while now < 5.0:
        now += 0.001
        for client, at in enumerate(back_at):
            if at <= now:
                back_at[client] = now + pacer.hold_s(now)
                refused += 1
    assert refused <= 5.0 / INTERVAL_S * 1.1 + 2 * BURST_S / INTERVAL_S
