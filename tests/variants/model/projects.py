"""Project and model files of users. Each function of the model can be replaced by a wrong one."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import yaml

from tests.small import quiet
from tests.variants import tiny
from variants.model.training import Schedule, fit

HEAD = """
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
from torch import nn
from tests.variants import tiny
from variants.model.dataset import Datasets, Split
"""
VALID = {
    "network": "def network(): return tiny.network()",
    "weights": "def weights(): return Path(__file__).with_name('weights.safetensors')",
    "datasets": "def datasets(): return tiny.datasets()",
}
_MODULE_NUMBERS = count()


def write_model(folder: Path, monkeypatch: pytest.MonkeyPatch, **functions: str) -> str:
    """Write a module of the tiny network, with functions replaced; return its import path."""
    name = f"model_{next(_MODULE_NUMBERS)}"
    (folder / f"{name}.py").write_text("\n".join([HEAD, *(VALID | functions).values()]))
    monkeypatch.syspath_prepend(folder)
    return name


def write_weights(folder: Path) -> None:
    """Train the tiny network briefly and write its weights."""
    network = tiny.network()
    schedule = Schedule(epochs=20, batch_size=32, learning_rate=1e-2)
    fit(network, tiny.datasets().train, schedule, quiet())
    safetensors.torch.save_file(network.state_dict(), folder / "weights.safetensors")


def write_project(folder: Path, model: str, recipes: dict[str, Any]) -> Path:
    """Write a project file with `dense` and these recipes."""
    path = folder / "recipes.yaml"
    project = {"name": "model", "model": model, "recipes": {"dense": [], **recipes}}
    path.write_text(yaml.safe_dump(project, sort_keys=False))
    return path
