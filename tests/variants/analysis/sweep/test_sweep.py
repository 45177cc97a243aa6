from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from rich.console import Console
from torch import nn

from tests.small import quiet
from tests.variants import tiny, tiny_conv
from tests.variants.model.projects import write_model, write_project
from variants.analysis.sweep.report import plot, table, verdicts
from variants.analysis.sweep.sweep import Sweep, run_sweep, sweep
from variants.compression.pruning.graph import find_unit_groups
from variants.compression.pruning.group import remove_units
from variants.compression.pruning.neurons import (
    fold_means,
    measure_reader_moments,
    merge_by_group,
)
from variants.compression.techniques.activation import ActivationPruning
from variants.measurement.evaluation import accuracy_difference
from variants.model.training import Schedule, fit, predict

SCHEDULE = Schedule(epochs=2, batch_size=32, learning_rate=1e-2)
DATA = tiny.datasets().training_data


@cache
def trained() -> nn.Sequential:
    network = tiny.network()
    fit(network, DATA.train, SCHEDULE, quiet())
    return network


@cache
def swept() -> Sweep:
    means, deviations = (0.0, 0.3, 9.0), (0.4, 9.0)
    return sweep(trained(), DATA, quiet(), means=means, deviations=deviations, recovery=SCHEDULE)


def test_points_ascend_and_equal_choices_are_measured_once() -> None:
    removed = [point.removed for point in swept().points]
    assert removed == sorted(removed)
    assert removed[0] == 0  # no neuron has |mean| below 0: the control, for both deviations
    assert len(removed) < 6
    assert swept().points[-1].kept == {"0": 1, "2": 1}


def test_statistics_and_accuracy_come_from_different_samples() -> None:
    assert (swept().statistics_samples, swept().accuracy_samples) == (30, 90)
    statistics, held_out = DATA.validation.part(0, 30), DATA.validation.part(30, 120)
    point = swept().points[1]
    groups = find_unit_groups(trained(), statistics.samples).groups
    module_moments = measure_reader_moments(trained(), groups, statistics.samples, quiet())
    pruning = ActivationPruning(mean_below=point.mean_below, deviation_below=point.deviation_below)
    kept = pruning.choose(merge_by_group(groups, module_moments))
    pruned = remove_units(fold_means(trained(), groups, kept, module_moments)[0], groups, kept)
    dense = predict(trained(), held_out.samples).numpy()

    def difference() -> object:
        predictions = predict(pruned, held_out.samples).numpy()
        return accuracy_difference(predictions, dense, held_out.labels)

    assert point.pruned == difference()
    fit(pruned, DATA.train, SCHEDULE, quiet())
    assert point.recovered == difference()
    assert point.pruned != point.recovered


def test_removing_nothing_changes_nothing() -> None:
    control = swept().points[0]
    assert control.pruned.value == 0
    assert control.pruned.low < 0 < control.pruned.high


@pytest.mark.parametrize("removed", [0.0, 0.1, 0.5])
def test_the_point_of_least_removal_is_chosen_by_size_alone(removed: float) -> None:
    point = swept().least_removed(removed)
    assert point == min(
        (p for p in swept().points if p.removed >= removed), key=lambda p: p.removed
    )


def test_no_point_removes_everything() -> None:
    assert swept().least_removed(1.0) is None


def test_the_report_has_every_point_and_both_published_results(tmp_path: Path) -> None:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table(swept()))
    text = capture.get()
    assert all(f"{point.removed:.1%}" in text for point in swept().points)
    assert "30 samples, accuracy on 90 others" in text
    first, second, control = verdicts(swept())
    assert first.startswith("published: 62% fewer at -0.08; this sweep: ")
    assert second.startswith("published: 74% fewer at -0.50; this sweep: ")
    assert control.startswith("control: dense itself, trained for as long")
    for path in plot(swept(), tmp_path / "plots"):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5_000


def test_a_project_is_swept_with_the_recovery_of_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safetensors.torch.save_file(trained().state_dict(), tmp_path / "weights.safetensors")
    recipe = [
        {"technique": "activation-pruning", "parameters": {"share": 0.5}},
        {"technique": "recover", "parameters": {"epochs": 3}},
    ]
    recipes = {"recovered": [{"technique": "recover"}], "pruned": recipe}
    project = write_project(tmp_path, write_model(tmp_path, monkeypatch), recipes)
    result = run_sweep(project, quiet(), means=(0.3,), deviations=(0.5,))
    assert result.recovery.epochs == 3
    assert len(result.points) == 1
    assert np.isfinite(result.points[0].recovered.value)


def test_a_convolutional_network_is_swept_and_drawn(tmp_path: Path) -> None:
    data = tiny_conv.datasets().training_data
    result = sweep(
        tiny_conv.network(),
        data,
        quiet(),
        means=(0.2, 9.0),
        deviations=(0.3, 9.0),
        recovery=Schedule(epochs=1, batch_size=64),
    )
    assert list(result.moments) == ["stem + narrow", "widen"]
    assert result.points[-1].kept == {"stem + narrow": 1, "widen": 1}
    assert 0.9 < result.points[-1].removed < 1
    assert plot(result, tmp_path)[1].stat().st_size > 5_000
