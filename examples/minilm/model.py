"""all-MiniLM-L6-v2 with a classification head for TREC-6: 22.6 M parameters.

Two inputs, `input_ids` and `attention_mask`, with a variable number of tokens.
"""

from __future__ import annotations

from pathlib import Path

from examples.minilm import data
from examples.minilm.encoder import Classifier, Size
from variants.model.dataset import Datasets


def network() -> Classifier:
    """Return the untrained network: ids and mask INT64 `[n, tokens]` to logits FP32 `[n, 6]`."""
    return Classifier(Size(classes=len(data.CLASSES)))


def weights() -> Path:
    """Return the path of the weights that `python -m examples.minilm.train` writes."""
    return data.FOLDER / "weights.safetensors"


def datasets() -> Datasets:
    """Return TREC-6 as token ids and masks, INT64 `[n, 24]`."""
    return data.load()
