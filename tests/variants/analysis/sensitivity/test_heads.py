from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import click
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

from paretoserve.main import cli
from tests.small import quiet
from tests.variants import tiny_attention
from tests.variants.model.projects import write_model, write_project, write_weights
from variants.analysis.sensitivity.heads import HEADS, run_heads
from variants.compression.pruning.heads import rank_heads
from variants.compression.pruning.score import DEFAULT_SAMPLES, Criterion
from variants.compression.sparsity.statistics import draw_samples

DIM = tiny_attention.HEAD_DIM
LAYER = "layers.1.attention"


def _network_with_useless_head() -> Any:
    """Return a network in which head 1 of the second attention hardly changes the output."""
    network: Any = tiny_attention.network()
    with torch.no_grad():
        network.layers[1].attention.output.weight[:, DIM : 2 * DIM] *= 1e-4
    return network


@pytest.fixture
def validation_samples() -> int:
    """The size of the project's validation split."""
    return 80


@pytest.fixture
def project(validation_samples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of that network."""
    safetensors.torch.save_file(
        _network_with_useless_head().state_dict(), tmp_path / "weights.safetensors"
    )
    module = write_model(
        tmp_path,
        monkeypatch,
        network="from tests.variants import tiny_attention\nnetwork = tiny_attention.network",
        datasets="def datasets(): return replace(tiny_attention.datasets(), "
        f"validation=tiny_attention.split({validation_samples}, 2))",
    )
    return write_project(tmp_path, module, {})


def test_heads_are_ranked_in_a_table_and_in_a_file(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "o[/x]"
    result = CliRunner().invoke(cli, ["sensitivity", str(project), "--heads", "--out", str(out)])
    assert result.exception is None, result.output
    assert [path.name for path in out.iterdir()] == ["heads.json"]  # layers are not measured
    assert f"{out}/heads.json" in "".join(result.stdout.split())
    heads = HEADS.validate_json((out / "heads.json").read_bytes())
    assert [(head.layer, head.head) for head in heads[:1]] == [(LAYER, 1)]
    assert [head.rank for head in heads] == [1, 2, 3, 4, 5, 6]
    assert "Importance of attention heads by taylor" in result.stdout
    assert all(f"{h.head}: {h.importance:.2f} ({h.rank})" in result.stdout for h in heads)


@pytest.mark.parametrize("validation_samples", [DEFAULT_SAMPLES + 100])
def test_heads_are_ranked_on_the_samples_that_structured_pruning_draws(
    project: Path, validation_samples: int
) -> None:
    split = draw_samples(tiny_attention.split(validation_samples, 2), DEFAULT_SAMPLES, seed=0)
    for criterion in ("activation", "taylor"):
        expected = rank_heads(_network_with_useless_head(), split, criterion, quiet())
        assert run_heads(project, criterion, quiet()) == tuple(expected)


def test_the_criterion_is_that_of_the_option(project: Path, tmp_path: Path) -> None:
    command = ["sensitivity", str(project), "--heads", "--criterion", "magnitude"]
    result = CliRunner().invoke(cli, [*command, "--out", str(tmp_path)])
    assert result.exception is None, result.output
    assert "Importance of attention heads by magnitude" in result.stdout
    heads = HEADS.validate_json((tmp_path / "heads.json").read_bytes())
    assert heads == run_heads(project, "magnitude", quiet())
    assert heads != run_heads(project, "taylor", quiet())


def test_the_option_offers_every_criterion_except_random() -> None:
    option = next(each for each in cli.commands["sensitivity"].params if each.name == "criterion")
    assert isinstance(option.type, click.Choice)
    assert {*option.type.choices, "random"} == set(get_args(Criterion))


def test_a_network_without_attention_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weights(tmp_path)
    project = write_project(tmp_path, write_model(tmp_path, monkeypatch), {})
    done = subprocess.run(
        [sys.executable, "-c", "from paretoserve.main import main; main()",
         "sensitivity", str(project), "--heads", "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: the network has no attention heads: no module has query, key" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--heads", "--target", "50"], "--heads cannot be combined with --target"),
        (["--heads", "--max-drop", "0"], "--heads cannot be combined with --target"),
        (["--criterion", "taylor"], "--criterion is used by --heads: give that option too"),
        (["--heads", "--criterion", "random"], "'random' is not one of 'taylor'"),
    ],
)
def test_options_that_cannot_be_combined_are_errors(
    tmp_path: Path, options: list[str], message: str
) -> None:
    empty = tmp_path / "recipes.yaml"
    empty.write_text("")
    result = CliRunner().invoke(cli, ["sensitivity", str(empty), *options])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
