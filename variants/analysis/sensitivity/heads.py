"""Importance of the attention heads of a project's network.

project file ─▶ network, some validation samples ─▶ rank_heads ─▶ heads.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter
from rich.progress import Progress

from variants.build.check import load_checked_project
from variants.catalog import artifact
from variants.compression.pruning.heads import HeadImportance, rank_heads
from variants.compression.pruning.score import DEFAULT_SAMPLES, Criterion
from variants.compression.sparsity.statistics import draw_samples

JSON: Final = "heads.json"
HEADS: Final = TypeAdapter(tuple[HeadImportance, ...])
"""Content of the file. The least important head comes first."""


def run_heads(
    project_file: Path, criterion: Criterion, progress: Progress
) -> tuple[HeadImportance, ...]:
    """Rank the heads of a project's network on the validation samples that `structured` draws.

    There are at most `DEFAULT_SAMPLES` of them. The test split is not used. Raises `ValueError` if
    the project cannot be built or its network has no attention heads.
    """
    checked = load_checked_project(project_file)
    split = draw_samples(checked.datasets.validation, DEFAULT_SAMPLES, seed=0)
    return tuple(rank_heads(checked.network, split, criterion, progress))


def write_heads(heads: Sequence[HeadImportance], folder: Path) -> Path:
    """Write `heads.json`, a list of records, into the folder, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    artifact.write_file(folder / JSON, HEADS.dump_json(tuple(heads), indent=2) + b"\n")
    return folder / JSON
