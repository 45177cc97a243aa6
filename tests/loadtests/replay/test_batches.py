from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from loadtests.replay.batches import reconstruct_batches
from loadtests.replay.client_statistics import ClientStatistics
from loadtests.replay.replay import ReplayResult
from loadtests.replay.reported import ReportedTimes
from loadtests.trials.outcomes import Outcomes, RequestStatus
from loadtests.workload.workload import SloClass, Workload
from serving.routing.slo import Slo

CLIENT = ClientStatistics(0.0, 0.0, 0.0, 0, 0.0, 1, 0.0, False)


def replayed(
    rows: Sequence[tuple[float, float, int, int, float, float]], size: int = 1
) -> ReplayResult:
    """Return a replay from rows of sent, queued, variant, batch size, predicted, latency in ms."""
    columns = np.array(rows, np.float64).T
    count = len(rows)
    reported = ReportedTimes.unknown(count)
    reported.queue_s[:], reported.predicted_s[:], reported.latency_s[:] = columns[[1, 4, 5]] / 1e3
    reported.compute_s[:] = 1e-4
    outcomes = Outcomes(
        workload=Workload(
            "test", columns[0] / 1e3, np.zeros(count, np.int16), (SloClass("a", Slo(), 1, size),), 1
        ),
        policy="live",
        variants=("dense", "int8"),
        status=np.where(columns[3] > 0, RequestStatus.ANSWERED, RequestStatus.SHED).astype(np.int8),
        variant=columns[2].astype(np.int16),
        finished_s=(columns[0] + columns[5]) / 1e3,
        batch_size=columns[3].astype(np.int32),
        batches=None,
    )
    return ReplayResult(outcomes, reported, CLIENT, columns[0] / 1e3, "", 0.0)


def test_responses_with_equal_parameters_form_batches_in_order_of_dispatch() -> None:
    batches = reconstruct_batches(
        replayed(
            [
                (0, 3, 0, 2, 5, 8),  # dispatched at 3 for 5 ms, together with the next
                (1, 2, 0, 2, 5, 7),
                (2, 6, 0, 2, 5, 12),  # at 8 for 6 ms, with equal parameters
                (4, 4, 0, 2, 5, 10),
                (5, 0, 1, 1, 5, 4),  # another variant, at 5 for 4 ms
                (6, 2, 0, 1, 5, 3.5),  # another size, at 8 for 1.5 ms
                (7, 0, -1, 0, 5, 1),  # shed
                (6, 9, 0, 1, 5, 11),  # parameters equal to row 7, at 15 for 2 ms
                (7, 3, 0, 1, 9, 4),  # another prediction, at 10 for 1 ms
            ]
        )
    )
    assert batches is not None
    assert batches.variant.tolist() == [0, 1, 0, 0, 0, 0]
    assert batches.size.tolist() == [2, 1, 1, 1, 2, 1]
    np.testing.assert_allclose(batches.sent_s * 1e3, [3, 5, 8, 10, 8, 15])
    np.testing.assert_allclose(batches.took_s * 1e3, [5, 4, 1.5, 1, 6, 2])
    np.testing.assert_allclose(batches.predicted_s * 1e3, [5, 5, 5, 9, 5, 5])


def test_requests_of_several_samples_fill_a_batch_earlier() -> None:
    batches = reconstruct_batches(replayed([(n, 0, 0, 4, 5, 2) for n in range(4)], size=2))
    assert batches is not None
    np.testing.assert_allclose(batches.sent_s, [0, 0.002])


@pytest.mark.parametrize("batch_size", [0, -1])
def test_without_successful_responses_there_are_no_batches(batch_size: int) -> None:
    assert reconstruct_batches(replayed([(0, 0, -1, batch_size, 5, 1)])) is None
