from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.small import quiet
from tests.variants import tiny, tiny_conv, two_inputs
from variants.build import runtime_choice
from variants.build.build import create_artifact
from variants.build.runtime_choice import choose_runtime, observe_rows
from variants.compression.techniques.activation import ActivationPruning
from variants.compression.techniques.int8 import Int8
from variants.compression.techniques.n_m import SparseNM
from variants.compression.techniques.recovery import Recover
from variants.compression.techniques.structured import Structured
from variants.compression.techniques.unstructured import Unstructured
from variants.model.state import CompressionState, Stage
from variants.runtime.plan import PLAN, Plan
from variants.runtime.runner import Runner
from variants.runtime.torch import TorchRunner

DATA = tiny.datasets().training_data
SAMPLES = DATA.validation.samples


def _sparse(**parameters: Any) -> CompressionState:
    return SparseNM(**parameters).apply(tiny.state(), DATA, quiet())


def _served(state: CompressionState) -> str:
    return create_artifact(choose_runtime(state, SAMPLES, threads=1), DATA)[0]


def _measured(monkeypatch: pytest.MonkeyPatch, speedup: float) -> None:
    monkeypatch.setattr(runtime_choice, "_speedup", lambda *_: speedup)


@pytest.mark.parametrize(("speedup", "runtime"), [(1.5, "torch"), (1.0, "torch"), (0.9, "onnx")])
def test_the_faster_runtime_is_chosen_and_the_notes_say_so(
    speedup: float, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _measured(monkeypatch, speedup)
    state = choose_runtime(_sparse(), SAMPLES, threads=1)
    assert create_artifact(state, DATA)[0] == runtime
    assert f"{speedup:.2f} times as fast as its ONNX graph" in state.notes[-1]
    assert state.notes[-1].startswith("served as an ONNX graph") == (runtime == "onnx")


def test_packing_overrides_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise AssertionError("nothing should be timed")

    monkeypatch.setattr(runtime_choice, "_speedup", fail)
    assert _served(_sparse(packing="always")) == "torch"
    assert _served(_sparse(packing="never")) == "onnx"
    assert (
        "stored with their zeros"
        in choose_runtime(_sparse(packing="never"), SAMPLES, threads=1).notes[-1]
    )


def test_the_speedup_is_the_mean_over_all_batch_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def time_in_turns(_: object, batch: Any, clock: object) -> tuple[float, float]:
        sizes.append(len(batch["input"]))
        return (4.0, 1.0) if len(batch["input"]) == 64 else (2.0, 2.0)

    monkeypatch.setattr(runtime_choice, "_time_in_turns", time_in_turns)
    speedup = runtime_choice._speedup(lambda _: {}, lambda _: {}, SAMPLES, time.perf_counter)
    assert speedup == pytest.approx(4 ** (1 / 7))
    assert sizes == [1, 2, 4, 8, 16, 32, 64]


def test_both_runtimes_are_timed_in_turns() -> None:
    now, calls = 0.0, []

    def runner(seconds: float) -> Runner:
        def run(_: object) -> dict[str, Any]:
            nonlocal now
            now += seconds
            calls.append(seconds)
            return {}

        return run

    times = runtime_choice._time_in_turns((runner(3.0), runner(2.0)), {}, lambda: now)
    assert times == (3.0, 2.0)
    assert calls == [3.0, 2.0] * (len(calls) // 2)


def test_a_network_without_packed_layers_is_not_changed() -> None:
    state = tiny.state()
    assert choose_runtime(state, SAMPLES, threads=1) is state


def test_masked_convolutions_are_named() -> None:
    data = tiny_conv.datasets().training_data
    masked = SparseNM(min_rows=4, exclude=("head",)).apply(tiny_conv.state(), data, quiet())
    state = choose_runtime(masked, data.validation.samples, threads=1)
    assert "have no sparse kernel: widen, narrow" in state.notes[-1]


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_dynamic_int8_keeps_the_packing_and_static_int8_does_not(
    mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _measured(monkeypatch, 1.5)
    sparse = _sparse()
    int8 = Int8(mode=mode).apply(sparse, DATA, quiet())
    assert int8.stage is Stage.GRAPH
    runner, files = create_artifact(choose_runtime(int8, SAMPLES, threads=1), DATA)
    if mode == "static":
        assert runner == "onnx"
        assert any("a graph cannot pack them: 2" in note for note in int8.notes)
        return
    assert runner == "torch"
    kinds = {
        name: layer.kind for name, layer in Plan.model_validate_json(files[PLAN]).layers.items()
    }
    assert kinds == {"0": "linear-2:4-int8", "2": "linear-2:4-int8"}


def test_int8_of_packed_layers_falls_back_to_the_int8_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _measured(monkeypatch, 0.5)
    int8 = Int8(mode="dynamic").apply(_sparse(), DATA, quiet())
    runner, files = create_artifact(choose_runtime(int8, SAMPLES, threads=1), DATA)
    assert (runner, files["model.onnx"]) == ("onnx", int8.graph)


def test_int8_without_packing_is_a_graph_whatever_is_faster() -> None:
    int8 = Int8(mode="dynamic").apply(_sparse(packing="never"), DATA, quiet())
    assert int8.quantized == frozenset()
    assert any("a graph cannot pack them: 2" in note for note in int8.notes)
    assert _served(int8) == "onnx"


def test_excluded_layers_stay_packed_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    _measured(monkeypatch, 1.5)
    int8 = Int8(mode="dynamic", exclude=("2",)).apply(_sparse(), DATA, quiet())
    state = choose_runtime(int8, SAMPLES, threads=1)
    _, files = create_artifact(state, DATA)
    layers = Plan.model_validate_json(files[PLAN]).layers
    assert (layers["0"].kind, layers["2"].kind) == ("linear-2:4-int8", "linear-2:4")
    assert "packed 2:4 layers with weights of 8 bits: 0; in FP32: 2, 4" in state.notes


def test_the_number_of_threads_of_torch_is_restored() -> None:
    before = torch.get_num_threads()
    choose_runtime(_sparse(packing="always"), SAMPLES, threads=before + 1)
    assert torch.get_num_threads() == before


def test_recovery_after_int8_of_packed_layers_keeps_the_pattern() -> None:
    int8 = Int8(mode="dynamic").apply(_sparse(), DATA, quiet())
    trained = Recover(epochs=1).apply(int8, DATA, quiet())
    assert trained.quantized == {"0", "2"}
    for name, mask in trained.masks.items():
        assert (trained.network.get_parameter(name)[~mask] == 0).all()
    assert not torch.equal(
        trained.network.get_parameter("0.weight"), int8.network.get_parameter("0.weight")
    )


def test_structured_then_unstructured_pruning_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    _measured(monkeypatch, 1.5)
    smaller = Structured(share=0.3, criterion="magnitude").apply(tiny.state(), DATA, quiet())
    sparse = Unstructured(share=0.8, exclude=("4",)).apply(smaller, DATA, quiet())
    runner, files = create_artifact(choose_runtime(sparse, SAMPLES, threads=1), DATA)
    layers = Plan.model_validate_json(files[PLAN]).layers
    assert runner == "torch"
    assert layers["2"].kind == "linear-sparse"
    assert layers["2"].in_features < tiny.HIDDEN


@pytest.mark.parametrize(
    "chosen_by", [{"mean_below": 0.3, "deviation_below": 0.4}, {"share": 0.35}]
)
def test_activation_pruning_rounds_widths_so_that_2_of_4_fits(chosen_by: dict[str, Any]) -> None:
    technique = ActivationPruning(**chosen_by, round_to=4)
    pruned = technique.apply(tiny.state(), DATA, quiet())
    sparse = SparseNM(min_rows=1).apply(pruned, DATA, quiet())
    widths = [len(pruned.network.get_parameter(f"{name}.weight")) for name in ("0", "2")]
    assert all(width % 4 == 0 for width in widths)
    assert widths != [16, 16]
    assert sparse.packed == {"0", "2", "4"}


class _Reading(nn.Module):
    """Reads the weight of its layer instead of calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(8, 8)
        self.called = nn.Linear(8, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        tokens = torch.stack([features, features], dim=1) @ self.read.weight
        result: torch.Tensor = self.called(tokens).mean(dim=1)
        return result


def test_rows_are_counted_for_the_layers_that_are_called() -> None:
    assert observe_rows(_Reading(), ("read", "called"), SAMPLES) == {"called": 2}


def test_layers_that_are_not_called_stay_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    _measured(monkeypatch, 1.5)
    network = _Reading().eval()
    original = replace(tiny.state(), network=network, dense=network)
    state = choose_runtime(SparseNM(min_rows=3).apply(original, DATA, quiet()), SAMPLES, threads=1)
    assert state.packed == {"called"}
    assert "layer read stays dense: the network reads its weight" in "; ".join(state.notes)
    _, files = create_artifact(state, DATA)
    assert [*Plan.model_validate_json(files[PLAN]).layers] == ["called"]


def test_other_outputs_than_the_networks_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        TorchRunner,
        "__call__",
        lambda *_: {"logits": np.ones((16, 3), np.float32)},
    )
    with pytest.raises(ValueError, match="with sparse kernels, 'logits' differs by"):
        choose_runtime(_sparse(packing="always"), SAMPLES, threads=1)


def test_int8_layers_with_too_many_inputs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_choice, "MAX_INPUTS_INT8", 8)
    int8 = Int8(mode="dynamic").apply(_sparse(), DATA, quiet())
    wide, kinds = runtime_choice._int8_notes(int8, int8.packed)
    assert wide == "layer 2 stays in FP32: 8-bit products of 16 inputs may overflow 32 bits"
    assert kinds.endswith("8 bits: 0; in FP32: 2, 4")


def test_int8_layers_that_are_used_in_another_way_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime_choice, "TorchRunner", _Doubling)
    int8 = Int8(mode="dynamic").apply(_sparse(packing="always"), DATA, quiet())
    with pytest.raises(ValueError, match="with sparse kernels, 'logits' differs by"):
        choose_runtime(int8, SAMPLES, threads=1)


class _Doubling(TorchRunner):
    def __call__(self, inputs: Any) -> dict[str, Any]:
        return {name: 2 * output for name, output in super().__call__(inputs).items()}


class _Scaled(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def test_a_subclass_with_a_forward_of_its_own_stays_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    _measured(monkeypatch, 1.5)
    network = nn.Sequential(_Scaled(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    original = replace(tiny.state(), network=network, dense=network)
    state = choose_runtime(SparseNM(min_rows=3).apply(original, DATA, quiet()), SAMPLES, threads=1)
    assert state.packed == {"2"}
    assert "layer 0 stays dense: _Scaled has a forward of its own" in state.notes


def test_rows_of_variable_length_inputs_are_stored_in_the_plan() -> None:
    data = two_inputs.datasets().training_data
    sparse = SparseNM(packing="always").apply(two_inputs.state(), data, quiet())
    _, files = create_artifact(choose_runtime(sparse, data.validation.samples, threads=1), data)
    (layer,) = Plan.model_validate_json(files[PLAN]).layers.values()
    assert layer.rows >= 1
