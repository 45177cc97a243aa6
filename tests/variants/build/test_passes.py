"""Dense runs once over all samples, and the sentence names the first that it does not answer."""

from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor, nn

from tests.variants import tiny
from variants.build.passes import run_splits
from variants.model.dataset import Datasets, Split


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.f = nn.Embedding(20, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.f(self.words(ids).mean(1))
        return scores


def _texts() -> Datasets:
    ids = np.random.default_rng(0).integers(0, 20, (700, 5))
    split = Split({"ids": ids}, np.zeros(len(ids), np.int64))
    return Datasets(split, split, split)


def test_all_samples_are_run() -> None:
    done = run_splits(tiny.network(), tiny.datasets(), seconds=60)
    assert done.is_complete
    assert done.describe().endswith("test 100, validation 120, train 400")
    assert done.seconds_per_sample > 0


def test_it_says_so_if_time_is_up() -> None:
    done = run_splits(tiny.network(), tiny.datasets(), seconds=-1)
    assert not done.is_complete
    assert "train 0 of 400, for lack of time" in done.describe()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_sample_with_an_id_out_of_range_is_named(split: str) -> None:
    data = _texts()
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    part = parts[split]
    ids = part.samples["ids"].copy()
    ids[450, 3] = 20
    parts[split] = Split({"ids": ids}, part.labels)
    data = Datasets(parts["train"], parts["validation"], parts["test"])
    message = rf"sample 450 of {split} \(ids int64 \[5\], \d+ to 20\) is not answered: IndexError"
    with pytest.raises(ValueError, match=message):
        run_splits(Words(), data, seconds=60)


def test_a_sample_whose_scores_are_not_finite_is_named() -> None:
    class Dividing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / x[:, :1]

    data = tiny.datasets()
    data.test.samples["input"][7] = 0
    with pytest.raises(
        ValueError, match=r"sample 7 of test .*: its scores contain NaN or infinity"
    ):
        run_splits(Dividing(), data, seconds=60)
