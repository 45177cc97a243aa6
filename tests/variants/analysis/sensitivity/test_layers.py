from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from rich.console import Console
from torch import nn

from paretoserve.commands.analyse import LARGEST_SPARSITY
from paretoserve.main import cli
from tests.small import quiet
from tests.variants import tiny, tiny_conv, two_inputs
from tests.variants.model.projects import write_model, write_project
from variants.analysis.sensitivity.budget import allocate
from variants.analysis.sensitivity.layers import (
    SPARSITIES,
    Sensitivity,
    measure_sensitivity,
    run_sensitivity,
)
from variants.analysis.sensitivity.report import allocation_yaml, table, write_files
from variants.catalog.recipe import Project
from variants.catalog.record import read_record
from variants.measurement.evaluation import accuracy_difference
from variants.model.training import Schedule, fit, predict

VALIDATION = tiny.datasets().validation


@cache
def trained() -> nn.Sequential:
    network = tiny.network()
    fit(network, tiny.datasets().train, Schedule(epochs=4, batch_size=32), quiet())
    return network


@cache
def sensitivity() -> Sensitivity:
    return measure_sensitivity(trained(), VALIDATION, quiet(), sparsities=(0.5, 0.9))


def test_each_layer_alone_loses_its_smallest_weights() -> None:
    dense = predict(trained(), VALIDATION.samples).numpy()
    for curve, name in zip(sensitivity().curves, ("0", "2", "4"), strict=True):
        assert (curve.layer, curve.kind) == (name, "Linear")
        assert [point.sparsity for point in curve.points] == [0, 0.5, 0.9]
        masked = copy.deepcopy(trained())
        weight = masked.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        threshold = weight.abs().flatten().kthvalue(round(0.9 * weight.numel())).values
        with torch.no_grad():
            weight[weight.abs() <= threshold] = 0
        predictions = predict(masked, VALIDATION.samples).numpy()
        assert curve.points[2].difference == accuracy_difference(
            predictions, dense, VALIDATION.labels
        )
    assert min(curve.points[2].difference.value for curve in sensitivity().curves) < -0.1


def test_measuring_does_not_change_the_network() -> None:
    network = tiny.network()
    before = copy.deepcopy(network.state_dict())
    measure_sensitivity(network, VALIDATION.part(0, 10), quiet(), sparsities=(1.0,))
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())


def test_convolutions_are_layers_and_networks_may_have_several_inputs() -> None:
    convs = measure_sensitivity(
        tiny_conv.network(), tiny_conv.split(20), quiet(), sparsities=(1.0,)
    )
    assert {curve.layer: (curve.kind, curve.weights) for curve in convs.curves} == {
        "stem": ("Conv2d", 216),
        "widen": ("Conv2d", 1152),
        "narrow": ("Conv2d", 1152),
        "head": ("Linear", 32),
    }
    texts = measure_sensitivity(
        two_inputs.network(), two_inputs.split(20), quiet(), sparsities=(0.5,)
    )
    assert [curve.layer for curve in texts.curves] == ["hidden", "head"]


def test_the_memory_format_makes_no_difference() -> None:
    channels_first, channels_last = tiny_conv.network(), tiny_conv.network()
    for convolution in (channels_last.stem, channels_last.widen, channels_last.narrow):
        weight = convolution.weight.detach().contiguous(memory_format=torch.channels_last)
        convolution.weight = nn.Parameter(weight)
    assert channels_last.widen.weight.stride() != channels_first.widen.weight.stride()
    curves = [
        measure_sensitivity(network, tiny_conv.split(200), quiet(), sparsities=(0.5, 0.9)).curves
        for network in (channels_first, channels_last)
    ]
    assert curves[0] == curves[1]
    assert any(point.difference.value for curve in curves[0] for point in curve.points)


@pytest.mark.parametrize("sparsities", [(0.5, 0.5), (0.9, 0.5), (0.0, 0.5), (0.5, 1.5)])
def test_sparsities_out_of_order_or_range_are_errors(sparsities: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="ascend strictly"):
        measure_sensitivity(trained(), VALIDATION, quiet(), sparsities=sparsities)


def test_a_network_without_such_layers_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no nn\.Linear"):
        measure_sensitivity(nn.Sequential(nn.ReLU()), VALIDATION, quiet())


def test_the_report_is_a_table_a_plot_and_json(tmp_path: Path) -> None:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table(sensitivity()))
    value = 100 * sensitivity().curves[0].points[2].difference.value
    assert f"{value:+.2f} [" in capture.get()
    assert "without training; 120" in capture.get()
    json, plot = write_files(sensitivity(), tmp_path / "out")
    assert read_record(Sensitivity, json) == sensitivity()
    assert plot.read_bytes().startswith(b"\x89PNG")
    text = allocation_yaml(allocate(sensitivity(), target_share=0.25))
    assert text.startswith("# 25.0% of the weights; ")
    assert "shares:\n  '0': " in text


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of the trained network."""
    safetensors.torch.save_file(trained().state_dict(), tmp_path / "weights.safetensors")
    return write_project(tmp_path, write_model(tmp_path, monkeypatch), {})


def test_the_command_prints_paths_literally(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "o[/x]"
    result = CliRunner().invoke(cli, ["sensitivity", str(project), "--out", str(out)])
    assert result.exception is None, result.output
    assert f"{out}/sensitivity.json" in "".join(result.stdout.split())


def test_the_largest_target_is_the_largest_sparsity_of_each_layer() -> None:
    assert 100 * SPARSITIES[-1] == LARGEST_SPARSITY
    allocation = allocate(
        measure_sensitivity(trained(), VALIDATION.part(0, 20), quiet()),
        target_share=LARGEST_SPARSITY / 100,
    )
    assert set(allocation.shares.values()) == {SPARSITIES[-1]}


def test_a_project_is_measured_on_its_validation_split(project: Path) -> None:
    result = run_sensitivity(project, quiet(), sparsities=(0.95,))
    assert (result.model, result.samples) == (Project.load(project).name, len(VALIDATION))
    assert [curve.weights for curve in result.curves] == [128, 256, 48]
    assert all(-1 < curve.points[1].difference.value < 0 for curve in result.curves)
