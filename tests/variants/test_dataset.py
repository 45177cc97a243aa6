from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.variants import tiny
from variants.dataset import Datasets, Split


def _relabelled(datasets: Datasets) -> Datasets:
    labels = datasets.test.labels.copy()
    labels[-1] += 1
    return replace(datasets, test=Split(datasets.test.samples, labels))


def test_equal_datasets_have_equal_hashes() -> None:
    assert tiny.datasets().sha256() == tiny.datasets().sha256()


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(_relabelled(tiny.datasets()), id="one label"),
        pytest.param(
            replace(tiny.datasets(), train=tiny.datasets().validation), id="another split"
        ),
        pytest.param(
            replace(
                tiny.datasets(),
                test=Split(
                    tiny.datasets().test.samples.reshape(-1, 4, 2), tiny.datasets().test.labels
                ),
            ),
            id="another shape of the same bytes",
        ),
    ],
)
def test_the_hash_sees_every_change(changed: Datasets) -> None:
    assert changed.sha256() != tiny.datasets().sha256()


def test_techniques_are_not_given_the_test_split() -> None:
    assert vars(tiny.datasets().material).keys() == {"train", "validation"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(3, dtype=np.int32), "labels must be INT64 .n., got int32 .3."),
        (np.zeros((3, 1), dtype=np.int64), "got int64 .3, 1."),
        (np.zeros(2, dtype=np.int64), "3 samples with 2 labels"),
    ],
)
def test_a_split_refuses(labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split(np.zeros((3, 8), dtype=np.float32), labels)
