"""Trials as files: outcomes that can be read back, and a folder with all that is to be seen.

    Outcomes ◀─▶ one .npz;   Trial + some Outcomes ─▶ scores.json, table.md, table.csv, *.png

Each file is written under another name first and then renamed: a reader sees all of it or nothing.
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
_OF_REQUESTS: Final = ("status", "variant", "finished_s", "batch_size")
_OF_BATCHES: Final = ("variant", "size", "sent_s", "predicted_s", "took_s")

SWEPT: Final[tuple[tuple[Setting, str, str], ...]] = (
    ("load", "goodput_per_s", "goodput-by-load"),
    ("load", "attainment", "attainment-by-load"),
    ("slo_factor", "attainment", "attainment-by-slo"),
    ("slo_factor", "mean_accuracy", "accuracy-by-slo"),
    ("cv2", "attainment", "attainment-by-cv2"),
)
"""What is drawn against a setting, if it was varied while the others were not."""


def write_outcomes(outcomes: Outcomes, path: Path) -> None:
    """Write everything about a trial, also its workload, into one compressed `.npz` file."""
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
    arrays |= {name: getattr(outcomes, name) for name in _OF_REQUESTS}
    if batches is not None:
        arrays |= {f"batches.{name}": getattr(batches, name) for name in _OF_BATCHES}
    arrays[_HEADER] = np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8)
    target = io.BytesIO()
    np.savez_compressed(target, **arrays)
    artifact.write_file(path, target.getvalue())


def read_outcomes(path: Path) -> Outcomes:
    """Read what `write_outcomes` wrote.

    Raises `ValueError` with the file if it is not such a file, or of another format.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(arrays[_HEADER].tobytes())
    except (BadZipFile, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no outcomes of a trial, as `.npz`: {error}") from None
    if header["format"] != _FORMAT:
        raise ValueError(f"{path}: need format {_FORMAT}, got {header['format']}; run it again")
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
        **{name: arrays[name] for name in _OF_REQUESTS},
        batches=Batches(**{name: arrays[f"batches.{name}"] for name in _OF_BATCHES})
        if header["has_batches"]
        else None,
    )


def write_trial(
    folder: Path,
    trial: Trial,
    shown: Sequence[Outcomes] = (),
    accuracy: Mapping[str, float] | None = None,
) -> list[Path]:
    """Write the scores, the tables, and every plot that the data allows; return the files.

    `shown` are outcomes of one workload, one per policy, ours first, to be drawn over time with
    `accuracy` by variant. The folder is made if need be; other files in it stay. Raises
    `ValueError` if the trial has no runs, or as `draw_timelines` does.
    """
    if not trial.runs:
        raise ValueError("a trial without runs has nothing to show")
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        SCORES: (trial.model_dump_json(indent=1) + "\n").encode(),
        MARKDOWN: render_markdown(trial).encode(),
        CSV: render_csv(trial).encode(),
    }
    for name, contents in files.items():
        artifact.write_file(folder / name, contents)
    written = [folder / name for name in files]
    for name, figure in _figures(trial, shown, accuracy or {}).items():
        artifact.write_file(folder / name, to_png(figure))
        written.append(folder / name)
    return written


def render_markdown(trial: Trial) -> str:
    """Write the summary, each condition, the classes where there are several, and predictions."""
    grids = [summary(trial), *by_condition(trial)]
    for condition, by_policy in trial.scores.items():
        if any(len(scores[0].classes) > 1 for scores in by_policy.values()):
            grids.append(by_class(by_policy, f"{condition.label}, by class"))
    predictions = by_prediction(trial)
    if predictions is not None:
        grids.append(predictions)
    return "\n\n".join(grid.to_markdown() for grid in grids) + "\n"


def _figures(
    trial: Trial, shown: Sequence[Outcomes], accuracy: Mapping[str, float]
) -> dict[str, Figure]:
    conditions = tuple(trial.scores)
    figures = {}
    kinds = dict.fromkeys(condition.kind for condition in conditions)
    for kind in kinds:
        of_kind = [condition for condition in conditions if condition.kind == kind]
        end = f"-{_as_file_name(kind)}" if len(kinds) > 1 else ""
        for slo_factor in dict.fromkeys(condition.slo_factor for condition in of_kind):
            some = [condition for condition in of_kind if condition.slo_factor == slo_factor]
            deadline = "" if slo_factor is None else f"-slo-{slo_factor:g}x"
            figures[f"tradeoff{end}{deadline}.png"] = draw_tradeoff(trial, some)
        for setting, metric, name in SWEPT:
            if groups_along(of_kind, setting):
                figures[f"{name}{end}.png"] = draw_sweep(trial, of_kind, setting, metric)
    if any(run.score.regret is not None for run in trial.runs):
        figures["regret.png"] = draw_regret(trial)
    if shown:
        figures["timelines.png"] = draw_timelines(shown, accuracy, trial.policies)
    for outcomes in shown:
        name, seconds = _as_file_name(outcomes.policy), outcomes.workload.seconds
        figures[f"dynamics-{name}.png"] = draw_dynamics(outcomes, accuracy)
        if outcomes.batches is not None:
            held = calibration(
                outcomes.batches, outcomes.variants, seconds, window_s=seconds / WINDOWS
            )
            if held is not None:
                figures[f"calibration-{name}.png"] = draw_calibration(held, outcomes.policy)
    return figures


def _as_file_name(policy: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in policy)


def _class_to_json(of: SloClass) -> dict[str, Any]:
    fields = asdict(of)
    if math.isinf(of.slo.latency_s):
        fields["slo"]["latency_s"] = None  # JSON has no infinity
    return fields


def _class_from_json(fields: Mapping[str, Any]) -> SloClass:
    slo = dict(fields["slo"])
    if slo["latency_s"] is None:
        slo["latency_s"] = math.inf
    return SloClass(**{**fields, "slo": Slo(**slo)})


def write_grids(path: Path, grids: Sequence[Grid]) -> None:
    """Write tables as Markdown, one below the other."""
    text = "\n\n".join(grid.to_markdown() for grid in grids) + "\n"
    artifact.write_file(path, text.encode())
