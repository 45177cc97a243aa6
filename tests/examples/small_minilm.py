"""A small model of `examples.minilm`: two layers and a toy vocabulary.

The class of a question is its first word, so that training is short.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import safetensors.torch
import torch

from examples.minilm.encoder import Classifier, Size
from examples.minilm.tokens import Tokenizer
from tests.small import quiet
from variants.model.dataset import Datasets, Split
from variants.model.training import Schedule, fit

QUESTION_WORDS: Final = ("who", "where", "when")
OTHER_PIECES: Final = ("is", "was", "the", "king", "city", "river", "war", "##s", "?")
VOCABULARY: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *QUESTION_WORDS, *OTHER_PIECES)
TOKENIZER: Final = Tokenizer(VOCABULARY)
LONGEST: Final = 12


def network() -> Classifier:
    size = Size(
        classes=len(QUESTION_WORDS), vocabulary=len(VOCABULARY), positions=16, layers=2, width=16,
        head_dim=4, hidden=32,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier(size)


@cache
def weights() -> Path:
    """Train the network and return its weights. The file is deleted when the process ends."""
    model = network()
    schedule = Schedule(epochs=8, batch_size=32, learning_rate=1e-2)
    fit(model, datasets().train, schedule, quiet())
    folder = Path(tempfile.mkdtemp(prefix="paretoserve-minilm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    safetensors.torch.save_file(model.state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


@cache
def datasets() -> Datasets:
    return Datasets(
        train=_split(400, 1),
        validation=_split(100, 2),
        test=_split(100, 3),
        axes={"input_ids": {1: "tokens"}, "attention_mask": {1: "tokens"}},
    )


def _split(count: int, seed: int) -> Split:
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(QUESTION_WORDS), count)
    texts = [
        " ".join([QUESTION_WORDS[label], *random.choice(OTHER_PIECES, random.integers(1, 8))])
        for label in labels
    ]
    ids = TOKENIZER.encode(texts, LONGEST)
    padding = ((0, 0), (0, LONGEST - ids["input_ids"].shape[1]))
    return Split({name: np.pad(array, padding) for name, array in ids.items()}, labels)
