"""Writes and reads trials as files.

    Outcomes ◀─▶ one .npz;   Trial + some Outcomes ─▶ scores.json, table.md, table.csv, *.png

Files are written atomically.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from matplotlib.figure import Figure

from loadtests.trials.calibration import calibration
from loadtests.trials.grid import Grid
from loadtests.trials.outcomes import Batches, Outcomes
from loadtests.trials.plot_calibration import draw_calibration
from loadtests.trials.plot_series import WINDOWS, draw_dynamics, draw_timelines
from loadtests.trials.plot_style import to_png
from loadtests.trials.plot_sweep import draw_regret, draw_sweep, draw_tradeoff, groups_along
from loadtests.trials.runs import Setting, Trial
from loadtests.trials.tables import by_class, by_condition, by_prediction, render_csv, summary
from loadtests.workload.workload import SloClass, Workload
from serving.routing.slo import Slo
from variants.catalog import artifact

SCORES: Final = "scores.json"
MARKDOWN: Final = "table.md"
CSV: Final = "table.csv"

_HEADER: Final = "header"
_FORMAT: Final = 1
_REQUEST_ARRAYS: Final = ("status", "variant", "finished_s", "batch_size")
_BATCH_ARRAYS: Final = ("variant", "size", "sent_s", "predicted_s", "took_s")

SWEPT: Final[tuple[tuple[Setting, str, str], ...]] = (
    ("load", "goodput_per_s", "goodput-by-load"),
    ("load", "attainment", "attainment-by-load"),
    ("slo_factor", "attainment", "attainment-by-slo"),
    ("slo_factor", "mean_accuracy", "accuracy-by-slo"),
    ("cv2", "attainment", "attainment-by-cv2"),
)
"""Settings, metrics and file names of the plots of a metric against a setting.

A plot is drawn if there are conditions that differ in this setting only.
"""


def write_outcomes(outcomes: Outcomes, path: Path) -> None:
    """Write outcomes and their workload to a compressed `.npz` file."""
    workload, batches = outcomes.workload, outcomes.batches
    header = {
        "format": _FORMAT,
        "policy": outcomes.policy,
        "variants": outcomes.variants,
        "workload": workload.name,
        "seconds": workload.seconds,
        "classes": [_class_to_json(each) for each in workload.classes],
        "has_batches": batches is not None,
    }
    arrays: dict[str, Any] = {"arrivals_s": workload.arrivals_s, "class_of": workload.class_of}
    arrays |= {name: getattr(outcomes, name) for name in _REQUEST_ARRAYS}
    if batches is not None:
        arrays |= {f"batches.{name}": getattr(batches, name) for name in _BATCH_ARRAYS}
    arrays[_HEADER] = np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8)
    target = io.BytesIO()
    np.savez_compressed(target, **arrays)
    artifact.write_file(path, target.getvalue())


def read_outcomes(path: Path) -> Outcomes:
    """Read a file written by `write_outcomes`.

    Raises ValueError with the path if the file is not of this kind or has another format version.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(arrays[_HEADER].tobytes())
    except (BadZipFile, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not an `.npz` file with outcomes: {error}") from None
    if header["format"] != _FORMAT:
        raise ValueError(
            f"{path}: format must be {_FORMAT}, got {header['format']}; repeat the run"
        )
    return Outcomes(
        workload=Workload(
            name=header["workload"],
            arrivals_s=arrays["arrivals_s"],
            class_of=arrays["class_of"],
            classes=tuple(_class_from_json(each) for each in header["classes"]),
            seconds=header["seconds"],
        ),
        policy=header["policy"],
        variants=tuple(header["variants"]),
        **{name: arrays[name] for name in _REQUEST_ARRAYS},
        batches=Batches(**{name: arrays[f"batches.{name}"] for name in _BATCH_ARRAYS})
        if header["has_batches"]
        else None,
    )


def write_trial(
    folder: Path,
    trial: Trial,
    outcomes: Sequence[Outcomes] = (),
    accuracy: Mapping[str, float] | None = None,
) -> list[Path]:
    """Write scores, tables and all plots for which there are data; return the paths.

    `outcomes` are drawn over time, with `accuracy` by variant. They have one workload and one entry
    per policy, the evaluated policy first. The folder is created if necessary; other files in it
    are kept.

    Raises ValueError if the trial has no runs, and as `draw_timelines` does.
    """
    if not trial.runs:
        raise ValueError("the trial has no runs")
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        SCORES: (trial.model_dump_json(indent=1) + "\n").encode(),
        MARKDOWN: render_markdown(trial).encode(),
        CSV: render_csv(trial).encode(),
    }
    for name, contents in files.items():
        artifact.write_file(folder / name, contents)
    written = [folder / name for name in files]
    for name, figure in _figures(trial, outcomes, accuracy or {}).items():
        artifact.write_file(folder / name, to_png(figure))
        written.append(folder / name)
    return written


def render_markdown(trial: Trial) -> str:
    """Return the summary, the tables by condition and by class, and the predictions as Markdown."""
    grids = [summary(trial), *by_condition(trial)]
    for condition, by_policy in trial.scores.items():
        if any(len(scores[0].classes) > 1 for scores in by_policy.values()):
            grids.append(by_class(by_policy, f"{condition.label}, by class"))
    predictions = by_prediction(trial)
    if predictions is not None:
        grids.append(predictions)
    return "\n\n".join(grid.to_markdown() for grid in grids) + "\n"


def _figures(
    trial: Trial, all_outcomes: Sequence[Outcomes], accuracy: Mapping[str, float]
) -> dict[str, Figure]:
    conditions = tuple(trial.scores)
    figures = {}
    kinds = dict.fromkeys(condition.kind for condition in conditions)
    for kind in kinds:
        of_kind = [condition for condition in conditions if condition.kind == kind]
        suffix = f"-{_as_file_name(kind)}" if len(kinds) > 1 else ""
        for slo_factor in dict.fromkeys(condition.slo_factor for condition in of_kind):
            with_factor = [condition for condition in of_kind if condition.slo_factor == slo_factor]
            deadline = "" if slo_factor is None else f"-slo-{slo_factor:g}x"
            figures[f"tradeoff{suffix}{deadline}.png"] = draw_tradeoff(trial, with_factor)
        for setting, metric, name in SWEPT:
            if groups_along(of_kind, setting):
                figures[f"{name}{suffix}.png"] = draw_sweep(trial, of_kind, setting, metric)
    if any(run.score.regret is not None for run in trial.runs):
        figures["regret.png"] = draw_regret(trial)
    if all_outcomes:
        figures["timelines.png"] = draw_timelines(all_outcomes, accuracy, trial.policies)
    for outcomes in all_outcomes:
        name, seconds = _as_file_name(outcomes.policy), outcomes.workload.seconds
        figures[f"dynamics-{name}.png"] = draw_dynamics(outcomes, accuracy)
        if outcomes.batches is not None:
            measured = calibration(
                outcomes.batches, outcomes.variants, seconds, window_s=seconds / WINDOWS
            )
            if measured is not None:
                figures[f"calibration-{name}.png"] = draw_calibration(measured, outcomes.policy)
    return figures


def _as_file_name(policy: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in policy)


def _class_to_json(slo_class: SloClass) -> dict[str, Any]:
    fields = asdict(slo_class)
    if math.isinf(slo_class.slo.latency_s):
        fields["slo"]["latency_s"] = None  # JSON has no infinity
    return fields


def _class_from_json(fields: Mapping[str, Any]) -> SloClass:
    slo = dict(fields["slo"])
    if slo["latency_s"] is None:
        slo["latency_s"] = math.inf
    return SloClass(**{**fields, "slo": Slo(**slo)})


def write_grids(path: Path, grids: Sequence[Grid]) -> None:
    """Write tables as Markdown to a file."""
    text = "\n\n".join(grid.to_markdown() for grid in grids) + "\n"
    artifact.write_file(path, text.encode())
