from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tests.small import quiet
from tests.variants import tiny, tiny_attention, tiny_conv, two_inputs
from variants.build.build import create_artifact
from variants.catalog import artifact
from variants.catalog.catalog import Model, Variant
from variants.compression.techniques.low_rank import LowRankFactors
from variants.compression.techniques.n_m import SparseNM
from variants.compression.techniques.structured import Structured
from variants.model.forward import all_scores
from variants.model.state import CompressionState
from variants.runtime.kernels.packing import MAX_INPUTS_INT8
from variants.runtime.low_rank import LowRank
from variants.runtime.plan import (
    Plan,
    ReplacedLayer,
    make_plan,
    rebuild,
    restore,
    storable_tensors,
)
from variants.runtime.runner import load_runner
from variants.runtime.shape import replace_tensors

SAMPLES = tiny.split(20).samples


def _stored(plan: Plan, tensors: dict[str, torch.Tensor]) -> tuple[Plan, bytes]:
    return Plan.model_validate_json(plan.model_dump_json()), safetensors.torch.save(tensors)


def _pruned(module: Any, **parameters: Any) -> CompressionState:
    technique = Structured(**{"criterion": "magnitude", "share": 0.4} | parameters)
    return technique.apply(module.state(), module.datasets().training_data, quiet())


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_a_pruned_and_sparse_network_is_rebuilt_from_its_plan_and_tensors() -> None:
    layers = nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8), nn.GELU(), nn.Linear(8, 3)
    original = replace(tiny.state(), network=nn.Sequential(*layers).eval())
    sparse = SparseNM(min_rows=8).apply(original, tiny.datasets().training_data, quiet())
    plan, tensors = make_plan(sparse.network, sparse.packed)

    assert plan.layers == {
        "0": ReplacedLayer(kind="linear-2:4", in_features=8, out_features=12, activation="relu"),
        "2": ReplacedLayer(kind="linear-2:4", in_features=12, out_features=8),
    }
    assert "0.weight" not in tensors
    rebuilt = rebuild(tiny.network(seed=1), *_stored(plan, tensors))
    assert type(rebuilt.get_submodule("2")) is nn.Linear
    assert rebuilt.get_submodule("4").in_features == 8  # the factory's has 16
    np.testing.assert_array_equal(
        tiny.answers(rebuilt, SAMPLES), tiny.answers(sparse.network, SAMPLES)
    )


@pytest.mark.parametrize("module", [tiny, tiny_conv, two_inputs, tiny_attention])
def test_every_kind_of_layer_is_rebuilt_by_the_shapes_of_its_tensors(module: Any) -> None:
    pruned = _pruned(module, through_norms=True).network
    dense = module.network(seed=1)
    before = _shapes(dense)
    rebuilt = rebuild(dense, *_stored(*make_plan(pruned, frozenset())))
    assert _shapes(rebuilt) == _shapes(pruned) != before
    assert str(rebuilt) == str(pruned)  # in_features, out_channels, num_features and so on
    samples = module.split(20).samples
    assert torch.equal(all_scores(rebuilt, samples), all_scores(pruned, samples))


def test_grouped_convolutions_keep_their_groups_unless_they_are_depthwise() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.PReLU(8), nn.BatchNorm2d(8),
        nn.Conv2d(8, 6, 1), nn.Conv2d(6, 6, 3, groups=2),
    )  # fmt: skip
    shapes = {
        "0.weight": (5, 3, 1, 1), "0.bias": (5,), "1.weight": (5, 1, 3, 3), "1.bias": (5,),
        "2.weight": (5,), "3.weight": (5,), "3.bias": (5,), "3.running_mean": (5,),
        "3.running_var": (5,), "4.weight": (4, 5, 1, 1), "4.bias": (4,), "5.weight": (4, 2, 3, 3),
        "5.bias": (4,),
    }  # fmt: skip
    replace_tensors(network, {name: torch.rand(shape) for name, shape in shapes.items()})
    sizes = [(m.in_channels, m.out_channels, m.groups) for m in network if isinstance(m, nn.Conv2d)]
    assert sizes == [(3, 5, 1), (5, 5, 5), (5, 4, 1), (4, 4, 2)]
    assert network.eval()(torch.rand(2, 3, 8, 8)).shape == (2, 4, 4, 4)


def test_low_rank_layers_are_rebuilt_with_and_without_packing() -> None:
    data = tiny.datasets().training_data
    factored = LowRankFactors(break_even=0.99, exclude=("4",)).apply(tiny.state(), data, quiet())
    sparse = SparseNM(min_rows=4).apply(factored, data, quiet())
    assert isinstance(factored.network.get_submodule("2"), LowRank)
    for state in (factored, sparse):
        plan, tensors = make_plan(state.network, state.packed)
        rank = factored.network.get_submodule("0").first.out_features  # type: ignore[union-attr]
        assert plan.layers["0"] == ReplacedLayer(
            kind="low-rank", in_features=8, out_features=16, rank=rank
        )
        rebuilt = rebuild(tiny.network(seed=1), *_stored(plan, tensors))
        np.testing.assert_array_equal(
            tiny.answers(rebuilt, SAMPLES), tiny.answers(state.network, SAMPLES)
        )
    assert "0.first" in sparse.packed


@pytest.mark.parametrize("module", [tiny_conv, tiny_attention])
def test_a_structured_and_packed_variant_is_served_by_torch(module: Any, tmp_path: Path) -> None:
    pruned, data = _pruned(module, round_to=4), module.datasets().training_data
    sparse = SparseNM(min_rows=4).apply(pruned, data, quiet())
    assert sparse.packed
    runner, files = create_artifact(sparse, data)
    assert runner == "torch"
    variant = Variant(name="small", recipe=(), runner=runner, files=())
    saved = artifact.save(tmp_path, variant, files)
    model = Model(
        name="m",
        factory=f"{module.__name__}:network",
        weights_sha256="0" * 64,
        datasets_sha256="0" * 64,
        inputs=pruned.interface.inputs,
        outputs=pruned.interface.outputs,
    )
    samples = module.split(9).samples
    logits = load_runner(tmp_path, model, saved, threads=1)(samples)["logits"]
    np.testing.assert_allclose(logits, all_scores(sparse.network, samples).numpy(), atol=1e-6)


def test_tied_weights_are_stored_for_each_layer() -> None:
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    network[2].weight = network[0].weight
    plan, tensors = make_plan(network, frozenset())
    rebuilt = rebuild(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)),
                      *_stored(plan, tensors))  # fmt: skip
    assert torch.equal(rebuilt(torch.ones(1, 8)), network(torch.ones(1, 8)))


def test_tied_and_channels_last_tensors_can_be_stored() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)).to(
        memory_format=torch.channels_last  # type: ignore[call-overload]
    )
    network[1].weight = network[0].weight
    stored = safetensors.torch.load(safetensors.torch.save(storable_tensors(network)))
    assert stored.keys() == network.state_dict().keys()
    assert all(torch.equal(stored[name], t) for name, t in network.state_dict().items())


def test_making_a_plan_does_not_modify_the_network() -> None:
    sparse = SparseNM().apply(tiny.state(), tiny.datasets().training_data, quiet())
    make_plan(sparse.network, sparse.packed)
    assert isinstance(sparse.network.get_submodule("0"), nn.Linear)


def _other_factory(plan: Plan, tensors: dict[str, torch.Tensor]) -> nn.Module:
    return rebuild(nn.Sequential(nn.Linear(8, 3)), *_stored(plan, tensors))


def _without(name: str) -> Callable[[Plan, dict[str, torch.Tensor]], nn.Module]:
    def attempt(plan: Plan, tensors: dict[str, torch.Tensor]) -> nn.Module:
        kept = {key: tensor for key, tensor in tensors.items() if key != name}
        return rebuild(tiny.network(), *_stored(plan, kept))

    return attempt


def _with(name: str, tensor: torch.Tensor) -> Callable[[Plan, dict[str, torch.Tensor]], nn.Module]:
    def attempt(plan: Plan, tensors: dict[str, torch.Tensor]) -> nn.Module:
        return rebuild(tiny.network(), *_stored(plan, tensors | {name: tensor}))

    return attempt


def _planned(name: str, **layer: Any) -> Callable[[Plan, dict[str, torch.Tensor]], nn.Module]:
    def attempt(plan: Plan, tensors: dict[str, torch.Tensor]) -> nn.Module:
        return rebuild(
            tiny.network(), *_stored(Plan(layers={name: ReplacedLayer(**layer)}), tensors)
        )

    return attempt


LINEAR24 = {"kind": "linear-2:4", "in_features": 8, "out_features": 8}
LOW_RANK = {"kind": "low-rank", "in_features": 8, "out_features": 8}


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (_other_factory, r"do not fit the plan: the network has no 2.bias, 2.weight, 4.bias"),
        (_without("4.weight"), r"do not fit the plan: there is no 4\.weight"),
        (_with("5.weight", torch.ones(2)), r"do not fit the plan: the network has no 5\.weight"),
        (_with("0.weight", torch.ones(3)), r"0.weight is torch.float32 \[3\], the network has"),
        (_with("0.bias", torch.ones(16).half()), r"0.bias is torch.float16 \[16\], the network"),
        (_with("0.bias", torch.ones(5)), "0.bias has 5 rows, its layer 16 outputs"),
        (_planned("7", **LINEAR24), "the plan has a layer '7', the network has none"),
        (_planned("1", **LINEAR24), "a linear-2:4 layer '1', the network has a ReLU there"),
        (_planned("2", **LINEAR24), r"do not fit the plan: there is no 2.indices, 2.values"),
        (_planned("2", **LOW_RANK), "the plan has a low-rank layer '2' without a rank"),
    ],
)
def test_a_mismatch_raises_an_error_with_its_name(
    attempt: Callable[[Plan, dict[str, torch.Tensor]], nn.Module], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        attempt(*make_plan(tiny.network(), frozenset()))


def _sparse_plan(**damage: torch.Tensor) -> nn.Module:
    """Rebuild a network whose layer 2 is INT8, with some of its tensors replaced."""
    sparse = SparseNM().apply(tiny.state(), tiny.datasets().training_data, quiet())
    plan, tensors = make_plan(sparse.network, {"2"}, quantized={"2"})
    tensors |= {f"2.{part}": tensor for part, tensor in damage.items()}
    return rebuild(tiny.network(), *_stored(plan, tensors))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"scales": torch.ones(15)}, r"expected scales torch.float32 \[16\]"),
        ({"scales": torch.full((16,), torch.nan)}, "scales must be finite and positive"),
        ({"scales": torch.zeros(16)}, "scales must be finite and positive"),
        ({"values": torch.ones(16, 8)}, r"expected values torch.int8 \[16, 8\]"),
        ({"values": torch.ones(4, 8, dtype=torch.int8)}, r"expected values torch.int8 \[16, 8\]"),
        ({"values": torch.full((16, 8), -128, dtype=torch.int8)}, "values must be from -127"),
    ],
)
def test_damaged_tensors_are_an_error_with_the_layer(
    damage: dict[str, torch.Tensor], message: str
) -> None:
    assert type(_sparse_plan().get_submodule("2")) is nn.Linear
    with pytest.raises(ValueError, match=f"layer 2: {message}"):
        _sparse_plan(**damage)


@pytest.mark.parametrize(
    "layer",
    [LINEAR24 | {"in_features": 2**40}, LINEAR24 | {"out_features": 20}, LOW_RANK | {"rank": 17}],
)
def test_a_layer_larger_than_that_of_the_network_is_rejected(layer: dict[str, Any]) -> None:
    plan = Plan(layers={"2": ReplacedLayer(**layer)})
    with pytest.raises(ValueError, match=r"layer '2' as .* is larger than \[16, 16\]"):
        restore(tiny.network(), plan, {})


@pytest.mark.parametrize("special", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_not_packed(special: float) -> None:
    network = SparseNM().apply(tiny.state(), tiny.datasets().training_data, quiet()).network
    weight = network.get_parameter("2.weight")
    with torch.no_grad():
        weight[weight != 0] = special
    with pytest.raises(ValueError, match="cannot pack layer 2: its weight has a NaN"):
        make_plan(network, {"2"})


def test_int8_layers_with_too_many_inputs_stay_in_fp32() -> None:
    network = nn.Sequential(nn.Linear(MAX_INPUTS_INT8 + 4, 1), nn.Linear(4, 1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1).view(-1, 1)[2::4] = 0
            parameter.view(-1, 1)[3::4] = 0
    plan, _ = make_plan(network, {"0", "1"}, quantized={"0", "1"})
    assert [each.kind for each in plan.layers.values()] == ["linear-2:4", "linear-2:4-int8"]


def test_a_module_that_cannot_be_resized_is_rejected() -> None:
    with pytest.raises(ValueError, match="'0', a GroupNorm, cannot be resized"):
        replace_tensors(nn.Sequential(nn.GroupNorm(2, 8)), {"0.weight": torch.ones(4)})


def test_packing_other_layers_than_linear_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"cannot pack, not Linear layers of the network: \['1'\]"):
        make_plan(tiny.network(), frozenset({"1"}))
