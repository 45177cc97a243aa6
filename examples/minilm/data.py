"""TREC-6 (Li and Roth 2002, Learning question classifiers): questions by kind of answer.

5,452 training questions, of which 500, drawn with a fixed seed, are the validation split, and the
official 500 test questions. Truncated or padded to 24 tokens, the length of the longest test
question. `python -m examples.fetch minilm` downloads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from examples.package import FOLDER as MODELS
from variants.model.dataset import Datasets, Split

FOLDER: Final = MODELS / "minilm"
CLASSES: Final = ("description", "entity", "abbreviation", "human", "number", "location")
TOKENS: Final = 24
VALIDATION_SAMPLES: Final = 500
SEED: Final = 0


def load(folder: Path = FOLDER) -> Datasets:
    """Return the three splits: `input_ids` and `attention_mask`, INT64 `[n, 24]`.

    Raises `ValueError` with the download command if the files are missing.
    """
    questions = _split(folder, "train")
    order = np.random.default_rng(SEED).permutation(len(questions))
    return Datasets(
        train=questions.take(order[VALIDATION_SAMPLES:]),
        validation=questions.take(order[:VALIDATION_SAMPLES]),
        test=_split(folder, "test"),
        axes={"input_ids": {1: "tokens"}, "attention_mask": {1: "tokens"}},
    )


def _split(folder: Path, name: str) -> Split:
    try:
        with np.load(folder / f"{name}.npz") as arrays:
            labels = arrays["labels"]
            inputs = {key: arrays[key] for key in ("input_ids", "attention_mask")}
    except FileNotFoundError:
        raise ValueError(
            f"there is no TREC-6 in {folder}; `python -m examples.fetch minilm` fetches it"
        ) from None
    return Split(inputs, labels)
