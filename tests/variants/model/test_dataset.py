from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.variants import tiny, two_inputs
from variants.model.dataset import Datasets, Samples, Split, count, shortened


def _all(change: Callable[[Split], Split]) -> Datasets:
    splits = tiny.datasets()
    return Datasets(change(splits.train), change(splits.validation), change(splits.test))


def _reshaped(split: Split) -> Split:
    return Split({"input": split.samples["input"].reshape(-1, 4, 2)}, split.labels)


def _renamed(split: Split) -> Split:
    return Split({"features": split.samples["input"]}, split.labels)


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
        pytest.param(_all(_reshaped), id="another shape"),
        pytest.param(_all(_renamed), id="another name of the input"),
    ],
)
def test_the_hash_depends_on_labels_splits_shapes_and_names(changed: Datasets) -> None:
    assert changed.sha256() != tiny.datasets().sha256()


def test_training_data_excludes_the_test_split() -> None:
    assert vars(tiny.datasets().training_data).keys() == {"train", "validation"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(3, dtype=np.int32), "labels must be INT64 .n., got int32 .3."),
        (np.zeros((3, 1), dtype=np.int64), "got int64 .3, 1."),
        (np.zeros(2, dtype=np.int64), "3 samples of 'input', 2 labels"),
    ],
)
def test_a_split_rejects_invalid_labels(labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split({"input": np.zeros((3, 8), dtype=np.float32)}, labels)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        pytest.param({}, 'samples must map input names to arrays, as in {"input"', id="no inputs"),
        pytest.param(np.zeros((3, 8)), "samples must map input names", id="no names"),
        pytest.param(
            {"ids": np.zeros((3, 5)), "mask": np.zeros((4, 5))},
            "4 samples of 'mask', 3 labels",
            id="unequal lengths",
        ),
    ],
)
def test_a_split_rejects_invalid_samples(samples: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split(samples, np.zeros(3, dtype=np.int64))


TEXTS = two_inputs.datasets()


def test_the_same_samples_are_selected_from_every_input() -> None:
    split = two_inputs.split(10)
    chosen = split.take(np.array([7, 2]))
    assert len(chosen) == count(chosen.samples) == 2
    assert chosen.labels.tolist() == split.labels[[7, 2]].tolist()
    for name, array in chosen.samples.items():
        np.testing.assert_array_equal(array, split.samples[name][[7, 2]])
    part = split.part(3, 6)
    assert len(part) == 3
    assert all(np.shares_memory(part.samples[name], split.samples[name]) for name in split.samples)


def test_only_axes_are_shortened_and_keep_at_least_one_element() -> None:
    axes = {"ids": {1: "tokens"}}
    assert shortened(TEXTS.test.samples, axes)["ids"].shape == (100, 6)
    assert shortened(TEXTS.test.samples, axes)["mask"].shape == (100, 12)
    one = two_inputs.split(4).samples["ids"][:, :1]
    np.testing.assert_array_equal(shortened({"ids": one}, axes)["ids"], one)


def test_splits_may_differ_in_size_only_along_the_axes() -> None:
    longer = replace(TEXTS, test=two_inputs.split(10, tokens=30))
    assert longer.test.samples["ids"].shape == (10, 30)
    with pytest.raises(ValueError, match=r"ids int64 .n, 30., .*the train split ids int64 .n, 12."):
        replace(longer, axes={})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param(
            {"mask": TEXTS.test.samples["mask"], "ids": TEXTS.test.samples["ids"]},
            r"the test split has mask int64 \[n, tokens\], ids int64 \[n, tokens\], the train "
            r"split ids int64 \[n, tokens\], mask",
            id="another order",
        ),
        pytest.param(
            {"words": TEXTS.test.samples["ids"], "mask": TEXTS.test.samples["mask"]},
            "the test split has words int64",
            id="another name",
        ),
        pytest.param(
            {**TEXTS.test.samples, "ids": TEXTS.test.samples["ids"].astype(np.int32)},
            "the test split has ids int32",
            id="another datatype",
        ),
    ],
)
def test_the_splits_must_have_the_same_inputs(changed: Samples, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TEXTS, test=Split(changed, TEXTS.test.labels))


def test_an_empty_split_is_rejected() -> None:
    with pytest.raises(ValueError, match="each of the three splits must have samples"):
        replace(TEXTS, validation=TEXTS.validation.part(0, 0))


def test_drawn_parts_are_disjoint_and_keep_the_order() -> None:
    numbers = np.arange(10)
    split = Split({"x": numbers}, numbers)
    first, second = split.draw(0, 4, 20)
    assert (len(first), len(second)) == (4, 6)
    for part in (first, second):
        assert np.array_equal(part.samples["x"], np.sort(part.labels))
    assert sorted([*first.labels, *second.labels]) == list(numbers)
    assert np.array_equal(split.draw(0, 4)[0].labels, first.labels)
    assert not np.array_equal(split.draw(1, 4)[0].labels, first.labels)


def test_torch_tensors_are_refused_with_what_to_call() -> None:
    torch = pytest.importorskip("torch")
    labels = np.zeros(2, np.int64)
    with pytest.raises(ValueError, match=r"samples of 'x' must be .* got Tensor: call \.numpy\(\)"):
        Split({"x": torch.zeros(2, 3)}, labels)
    with pytest.raises(ValueError, match=r"labels must be .* got Tensor: call \.numpy\(\) on it"):
        Split({"x": np.zeros((2, 3))}, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="got list: use np"):
        Split({"x": [[1.0], [2.0]]}, labels)  # type: ignore[dict-item]
