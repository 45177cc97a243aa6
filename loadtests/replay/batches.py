"""Reconstructs the batches of a replay from the parameters of its responses."""

from __future__ import annotations

import numpy as np

from loadtests.replay.replay import ReplayResult
from loadtests.trials.outcomes import Batches, RequestStatus


def reconstruct_batches(replayed: ReplayResult) -> Batches | None:
    """Return the batches of a replay; None if no response has the necessary parameters.

    The responses of a batch have the same variant, batch size, prediction and compute time. Of the
    responses with equal values, consecutive ones in order of dispatch form a batch, up to its size.
    The service reports times in microseconds, so neighbouring batches with equal values may be
    mixed up. Requests of other clients are not part of any batch.
    """
    reported, outcomes = replayed.reported, replayed.outcomes
    took_s = reported.latency_s - reported.queue_s
    sent_s = replayed.sent_s + reported.queue_s
    known = np.flatnonzero(
        (outcomes.status == RequestStatus.ANSWERED)
        & (outcomes.batch_size > 0)
        & np.isfinite(took_s + sent_s + reported.predicted_s)
        & (reported.predicted_s > 0)
    )
    if not len(known):
        return None
    columns = (outcomes.variant, outcomes.batch_size, reported.predicted_s, reported.compute_s)
    keys = np.column_stack([np.nan_to_num(column[known]) for column in columns])
    _, group = np.unique(keys, axis=0, return_inverse=True)
    order = np.lexsort((sent_s[known], group))
    known, group = known[order], group[order]
    sizes = outcomes.workload.sizes[known]
    # Samples before each request in its group, and from them the number of its batch there.
    before = np.cumsum(sizes) - sizes
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    before -= np.repeat(before[starts], np.diff(starts, append=len(group)))
    number = before // outcomes.batch_size[known]
    # The first request of a batch was dispatched with the others and answered no later.
    first = known[
        np.flatnonzero((np.diff(group, prepend=-1) != 0) | (np.diff(number, prepend=0) != 0))
    ]
    first = first[np.argsort(sent_s[first] + took_s[first], kind="stable")]
    return Batches(
        variant=outcomes.variant[first],
        size=outcomes.batch_size[first],
        sent_s=sent_s[first],
        predicted_s=reported.predicted_s[first],
        took_s=took_s[first],
    )
