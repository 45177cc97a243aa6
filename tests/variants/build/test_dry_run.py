"""Every recipe is tried on few samples: what cannot work fails as in a build, in seconds."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from tests.variants import tiny, two_inputs
from variants.build.dry_run import describe_seconds, dry_run, estimate_s, measuring_s
from variants.build.passes import SamplePass
from variants.catalog.recipe import Step
from variants.compression.techniques import resolve_all
from variants.model.dataset import TrainingData

SPEED = SamplePass({}, {}, 1e-5)


def _steps(*steps: tuple[str, dict[str, Any]]) -> Any:
    return resolve_all(tuple(Step(technique=t, parameters=p) for t, p in steps))


@pytest.mark.parametrize(
    ("steps", "runtime"),
    [
        ([], "onnx"),
        ([("int8", {})], "onnx"),
        ([("lottery-ticket", {"epochs": 3, "rewind_steps": 4, "rounds": 2})], "onnx"),
        ([("sparse-n:m", {"min_rows": 1}), ("recover", {"epochs": 3})], "torch"),
        ([("sparse-n:m", {"min_rows": 1, "packing": "never"})], "onnx"),
        ([("structured", {"share": 0.2, "rounds": 2, "recover": {"epochs": 4}})], "onnx"),
    ],
)
def test_a_recipe_that_works_is_tried(steps: list[Any], runtime: str) -> None:
    run = dry_run(tiny.state(), _steps(*steps), tiny.datasets(), SPEED)
    assert run.runtime == runtime
    assert run.samples <= 400


def test_trainings_are_scaled_by_the_time_of_their_steps() -> None:
    """Of 50 * 400 steps 6 were tried, which took 0.5 s each after 8 s of preparation."""
    now = [0.0]
    progress = Progress(console=Console(quiet=True), disable=True, get_time=lambda: now[0])
    task = progress.add_task("recovery", total=6)
    now[0] = 8.0
    for _ in range(6):
        now[0] += 0.5
        progress.advance(task)
    (long,) = _steps(("recover", {"epochs": 400, "batch_size": 8}))
    (short,) = _steps(("recover", {"epochs": 1, "batch_size": 8}))
    data = tiny.datasets().training_data
    few = TrainingData(data.train.part(0, 48), data.validation)
    estimate = estimate_s(long, short, 11.0, data, few, SPEED, progress.tasks)
    assert estimate == pytest.approx(11 + (50 * 400 - 6) * 0.5)


def test_observed_samples_are_counted() -> None:
    (wanda,) = _steps(("unstructured", {"share": 0.5, "criterion": "wanda", "samples": 100}))
    data = tiny.datasets().training_data
    few = TrainingData(data.train.part(0, 20), data.validation.part(0, 20))
    speed = SamplePass({"test": 10}, {"test": 10}, 1.0)
    assert estimate_s(wanda, wanda, 3.0, data, few, speed, ()) == pytest.approx(3.0 + 80 * 0.1)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([("int8", {"exclude": ["nothing"]})], "int8: exclude: 'nothing' matches no layer"),
        ([("structured", {"share": 0.99, "max_ratio": 0.1})], "structured: "),
        ([("sparse-n:m", {"min_rows": 999})], "sparse-n:m: .*cannot be applied to any layer"),
    ],
)
def test_a_recipe_that_cannot_work_fails_with_its_technique(steps: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dry_run(tiny.state(), _steps(*steps), tiny.datasets(), SPEED)


def test_dense_is_not_changed() -> None:
    state = two_inputs.state()
    before = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
    dry_run(state, _steps(("recover", {"epochs": 1})), two_inputs.datasets(), SPEED)
    after = state.network.state_dict()
    assert all(tensor.equal(after[name]) for name, tensor in before.items())


def test_measuring_takes_longer_for_more_variants_and_slower_networks() -> None:
    data = tiny.datasets()
    dense = dry_run(tiny.state(), (), data, SPEED)
    one = measuring_s({"dense": dense}, data, SPEED)
    assert measuring_s({"dense": dense, "b": dense}, data, SPEED) > 1.3 * one
    slow = SamplePass({"test": 100}, {"test": 100}, 10.0)
    assert measuring_s({"dense": dense}, data, slow) > 10 * one


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (7.4, "7 s"), (44, "40 s"), (150, "2.5 min"), (1500, "25 min"), (9000, "2.5 h")],
)
def test_estimates_have_two_figures(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text
