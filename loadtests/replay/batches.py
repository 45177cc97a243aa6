"""The batches that a client's answers came in, put together from what was said of each answer."""

from __future__ import annotations

import numpy as np

from loadtests.replay.replay import ReplayResult
from loadtests.trials.outcomes import Batches, RequestStatus


def reconstruct_batches(replayed: ReplayResult) -> Batches | None:
    """Return the batches of a replay; None if no answer said of itself what that takes.

    Answers of one batch were told the same variant, size, prediction and time of computing; of
    those that were, as many as fill a batch belong together, in order of dispatch. The service says
    microseconds, so some batches may be taken for their neighbours; who else sends it requests is
    in no batch of ours.
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
    told = np.column_stack([np.nan_to_num(column[known]) for column in columns])
    _, alike = np.unique(told, axis=0, return_inverse=True)
    order = np.lexsort((sent_s[known], alike))
    known, alike = known[order], alike[order]
    sizes = outcomes.workload.sizes[known]
    before = np.cumsum(sizes) - sizes
    starts = np.flatnonzero(np.diff(alike, prepend=-1))
    before -= np.repeat(before[starts], np.diff(starts, append=len(alike)))
    place = before // outcomes.batch_size[known]
    # The first of each batch: it was dispatched as the others were, and its answer came no later.
    first = known[
        np.flatnonzero((np.diff(alike, prepend=-1) != 0) | (np.diff(place, prepend=0) != 0))
    ]
    first = first[np.argsort(sent_s[first] + took_s[first], kind="stable")]
    return Batches(
        variant=outcomes.variant[first],
        size=outcomes.batch_size[first],
        sent_s=sent_s[first],
        predicted_s=reported.predicted_s[first],
        took_s=took_s[first],
    )
