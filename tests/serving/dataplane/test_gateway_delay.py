from __future__ import annotations

import math

import pytest

from serving.dataplane.delivery import Delivery
from serving.dataplane.gateway_delay import GatewayDelay
from serving.dataplane.load_shedder import LoadShedder


class RecordingShedder(LoadShedder):
    """Keeps the recorded delays, in seconds, and whether the answers were late."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[tuple[float, bool]] = []

    def record_answer(self, now: float, delay_s: float, *, is_late: bool) -> None:
        self.answers.append((delay_s, is_late))


def answer(
    delay: GatewayDelay, delivery: Delivery, received: float, way_s: float, after_s: float
) -> float:
    """Answer a request that was parsed for 10 ms, queued for 20 ms and computed in 30 ms.

    Returns the time until its answer is written.
    """
    admission = delay.admit(received, 0.1, received + 0.01, delivery)
    returned_at = received + 0.06 + way_s
    return delay.record_answer(
        admission, returned_at + after_s, queue_s=0.02, compute_s=0.03, returned_at=returned_at
    )


@pytest.mark.parametrize(
    ("way_s", "delay_s"),
    [
        pytest.param(0.005, 0.010 + 0.005 + 0.002, id="the way is that of the gateway"),
        pytest.param(0.030, 0.010 + 0.010 + 0.002, id="the batch has waited for a busy host"),
    ],
)
def test_the_delay_is_the_time_in_which_a_request_waits_for_the_gateway(
    way_s: float, delay_s: float
) -> None:
    shedder = RecordingShedder()
    took_s = answer(GatewayDelay(shedder), Delivery(), 1.0, way_s, after_s=0.002)
    assert took_s == pytest.approx(0.062 + way_s)
    ((recorded_s, is_late),) = shedder.answers
    assert recorded_s == pytest.approx(delay_s)
    assert not is_late


def test_an_answer_after_the_deadline_is_late() -> None:
    shedder = RecordingShedder()
    answer(GatewayDelay(shedder), Delivery(), 1.0, 0.0, after_s=0.05)
    assert [is_late for _, is_late in shedder.answers] == [True]


def test_the_time_of_delivery_is_set_aside_from_the_deadline_for_a_while() -> None:
    delay, delivery = GatewayDelay(LoadShedder()), Delivery()
    assert delay.admit(1.0, 0.1, 1.0, delivery).deadline == pytest.approx(1.1)
    answer(delay, delivery, 1.0, 0.0, after_s=0.02)
    assert delay.admit(1.2, 0.1, 1.2, delivery).deadline == pytest.approx(1.28)
    assert delay.admit(3.0, 0.1, 3.0, delivery).deadline == pytest.approx(3.1)
    assert delay.admit(3.0, math.inf, 3.0, delivery).deadline == math.inf


def test_the_usual_time_to_write_an_answer_counts_before_it_is_written() -> None:
    shedder = RecordingShedder()
    delay, delivery = GatewayDelay(shedder), Delivery()
    for took_s in (0.003, 0.004, 0.005):
        delivery.record_written(1.0, took_s)
    assert answer(delay, delivery, 1.0, 0.0, after_s=0.01) == pytest.approx(0.074)
    assert shedder.answers[0][0] == pytest.approx(0.010 + 0.0 + 0.014)
    assert delay.admit(5.0, 0.1, 5.0, delivery).deadline == pytest.approx(5.1)


def test_a_pause_while_an_answer_is_written_does_not_refuse_later_requests() -> None:
    delay, delivery = GatewayDelay(LoadShedder()), Delivery()
    delivery.record_written(1.0, 0.001)
    delivery.record_written(1.1, 30.0)
    delivery.record_written(1.2, 0.001)
    assert delay.admit(1.2, 0.1, 1.2, delivery).deadline == pytest.approx(1.299)
    delivery.record_written(31.0, 30.0)
    assert delay.admit(32.0, 0.1, 32.0, delivery).deadline == pytest.approx(32.1)


def test_each_transport_sets_the_time_of_its_own_deliveries_aside() -> None:
    delay, slow, fast = GatewayDelay(LoadShedder()), Delivery(), Delivery()
    answer(delay, slow, 1.0, 0.0, after_s=0.02)
    answer(delay, fast, 1.0, 0.0, after_s=0.001)
    assert delay.admit(1.2, 0.1, 1.2, slow).deadline == pytest.approx(1.28)
    assert delay.admit(1.2, 0.1, 1.2, fast).deadline == pytest.approx(1.299)


def test_the_prediction_includes_parsing_and_delivery() -> None:
    delay, delivery = GatewayDelay(LoadShedder()), Delivery()
    answer(delay, delivery, 1.0, 0.0, after_s=0.02)
    assert delay.admit(1.2, 0.1, 1.23, delivery).outside_s == pytest.approx(0.03 + 0.02)


def test_the_wait_to_be_let_in_does_not_count_as_a_delay_of_the_gateway() -> None:
    shedder = RecordingShedder()
    delay, delivery = GatewayDelay(shedder), Delivery()
    admission = delay.admit(1.0, 0.1, 1.03, delivery, waited_s=0.02)
    assert admission.outside_s == pytest.approx(0.03)
    took_s = delay.record_answer(admission, 1.04, queue_s=0.0, compute_s=0.01, returned_at=1.04)
    assert took_s == pytest.approx(0.04)
    assert [delay_s for delay_s, _ in shedder.answers] == [pytest.approx(0.01)]
