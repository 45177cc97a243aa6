from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from tests.small import quiet
from tests.variants import tiny, tiny_conv, two_inputs
from variants.compression.techniques.activation import ActivationPruning
from variants.compression.techniques.lottery import LotteryTicket, TicketSearch
from variants.compression.techniques.low_rank import LowRankFactors
from variants.compression.techniques.recovery import Recover
from variants.compression.techniques.technique import Technique
from variants.model.initial import initialize
from variants.model.training import accuracy, fit

DATA = tiny.datasets().training_data
TRAIN = DATA.train
STEPS = 13 * 2
WEIGHTS = 8 * 16 + 16 * 16 + 16 * 3

Control = Literal["none", "reinit", "random-mask"]


def _ticket(**changes: Any) -> LotteryTicket:
    defaults = {
        "epochs": 2,
        "batch_size": 32,
        "learning_rate": 1e-2,
        "rounds": 3,
        "share_per_round": 0.3,
    }
    return LotteryTicket.model_validate(defaults | changes)


@pytest.fixture(scope="module")
def search() -> TicketSearch:
    return _ticket(rewind_steps=4).search(tiny.network(), TRAIN, quiet())


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_each_round_masks_its_share_of_the_remaining_weights(search: TicketSearch) -> None:
    kept = [sum(int(mask.sum()) for mask in masks.values()) for masks in search.masks]
    assert kept == [WEIGHTS - round((1 - 0.7**number) * WEIGHTS) for number in (1, 2, 3)]
    assert kept == [302, 212, 148]


def test_masks_are_nested(search: TicketSearch) -> None:
    for before, after in zip(search.masks, search.masks[1:], strict=False):
        assert before.keys() == after.keys() == {"0.weight", "2.weight", "4.weight"}
        assert not any((after[name] & ~before[name]).any() for name in after)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_round_trains_from_rewound_weights_and_masks_the_smallest(
    search: TicketSearch, number: int
) -> None:
    ticket = _ticket(rewind_steps=4)
    before = search.masks[number - 1] if number else {}
    trained = tiny.network()
    trained.load_state_dict({n: w * before.get(n, 1) for n, w in search.rewind_state.items()})
    fit(trained, TRAIN, ticket, quiet(), masks=before, steps=range(4, STEPS))
    sizes = {name: trained.get_parameter(name).detach().abs() for name in search.masks[number]}
    kept = torch.cat([sizes[name][mask] for name, mask in search.masks[number].items()])
    removed = torch.cat([sizes[name][~mask] for name, mask in search.masks[number].items()])
    assert removed.max() <= kept.min()


@pytest.mark.parametrize("steps", [0, 5])
def test_the_rewind_state_is_the_network_after_the_rewind_steps(steps: int) -> None:
    ticket = _ticket(rewind_steps=steps, rounds=1)
    early = initialize(tiny.network(), ticket.seed)
    fit(early, TRAIN, ticket, quiet(), steps=range(steps))
    result = ticket.search(tiny.network(), TRAIN, quiet())
    assert _equal(result.rewind_state, early.state_dict())
    assert _equal(result.rewind_state, initialize(tiny.network(), 0).state_dict()) == (steps == 0)


def test_layers_of_a_ticket_with_many_zeros_can_be_stored_without_them() -> None:
    ticket = _ticket(epochs=1, rounds=1, share_per_round=0.75).apply(tiny.state(), DATA, quiet())
    zeros = {name: 1 - float(mask.float().mean()) for name, mask in ticket.masks.items()}
    assert ticket.packed == {
        name.removesuffix(".weight") for name, share in zeros.items() if share >= 0.7
    }
    assert 0 < len(ticket.packed) < len(zeros)


def test_kept_weights_are_rewound(search: TicketSearch) -> None:
    network, masks = _ticket(rewind_steps=4).start(tiny.network(), search)
    assert _equal(masks, search.masks[-1])
    for name, tensor in network.state_dict().items():
        mask = masks.get(name, torch.ones_like(tensor, dtype=torch.bool))
        assert torch.equal(tensor, search.rewind_state[name] * mask)


def test_reinit_has_the_same_masks_and_other_weights(search: TicketSearch) -> None:
    network, masks = _ticket(control="reinit").start(tiny.network(), search)
    assert _equal(masks, search.masks[-1])
    first = initialize(tiny.network(), seed=0)
    for name, mask in masks.items():
        weight = network.get_parameter(name)
        for other in (search.rewind_state[name], first.get_parameter(name)):
            assert not (weight[mask] == other[mask]).any()
        assert not weight[~mask].any()


def test_random_mask_keeps_as_many_weights_in_each_layer(search: TicketSearch) -> None:
    network, masks = _ticket(control="random-mask").start(tiny.network(), search)
    for name, mask in masks.items():
        ticket_mask = search.masks[-1][name]
        assert mask.sum() == ticket_mask.sum()
        assert not torch.equal(mask, ticket_mask)
        assert torch.equal(network.get_parameter(name), search.rewind_state[name] * mask)


@pytest.mark.parametrize("control", ["none", "reinit", "random-mask"])
def test_a_ticket_is_trained_and_keeps_its_masks(control: Control) -> None:
    original = tiny.state()
    ticket = _ticket(control=control, epochs=6, rewind_steps=4)
    result = ticket.apply(original, DATA, quiet())
    assert accuracy(result.network, DATA.validation) > 0.7
    for name, mask in result.masks.items():
        assert torch.equal(result.network.get_parameter(name) != 0, mask)
    assert result.notes[0].startswith("148 of 432 weights are kept after 3 rounds (by layer: 0 ")
    assert result.notes[0].endswith("control: " + control) == (control != "none")
    assert _equal(original.dense.state_dict(), tiny.network().state_dict())


def test_the_ticket_depends_on_the_seed_only() -> None:
    ticket = _ticket(rounds=1, rewind_steps=2)
    first, again = (ticket.apply(tiny.state(), DATA, quiet()) for _ in range(2))
    assert _equal(first.network.state_dict(), again.network.state_dict())
    trained_before = ticket.apply(tiny.state(seed=5), DATA, quiet())
    assert _equal(first.network.state_dict(), trained_before.network.state_dict())
    other = _ticket(rounds=1, rewind_steps=2, seed=1).apply(tiny.state(), DATA, quiet())
    assert not _equal(first.masks, other.masks)


def test_excluded_layers_are_never_masked() -> None:
    result = _ticket(rounds=1, exclude=("4",)).apply(tiny.state(), DATA, quiet())
    assert result.masks.keys() == {"0.weight", "2.weight"}
    with pytest.raises(ValueError, match="'head' matches no layer; the layers are 0, 2, 4"):
        _ticket(exclude=("head",)).apply(tiny.state(), DATA, quiet())
    with pytest.raises(ValueError, match="cannot be applied to any layer: there is no Linear or"):
        _ticket(exclude=("*",)).apply(tiny.state(), DATA, quiet())


@pytest.mark.parametrize("module", [tiny_conv, two_inputs])
def test_convolutions_and_networks_of_two_inputs_have_tickets(module: Any) -> None:
    original = module.state()
    ticket = _ticket(epochs=1, rounds=2, rewind_steps=2)
    result = ticket.apply(original, module.datasets().training_data, quiet())
    masked = sum(int((~mask).sum()) for mask in result.masks.values())
    total = sum(mask.numel() for mask in result.masks.values())
    assert masked == round((1 - 0.7**2) * total)
    for name, mask in result.masks.items():
        assert torch.equal(result.network.get_parameter(name) != 0, mask)


@pytest.mark.parametrize(
    ("before", "changed_first"),
    [
        pytest.param(
            ActivationPruning(mean_below=0.3, deviation_below=0.4), "0.weight", id="shapes"
        ),
        pytest.param(LowRankFactors(break_even=0.5, exclude=("0",)), "2.weight", id="layers"),
        pytest.param(Recover(epochs=1), "0.weight", id="weights"),
    ],
)
def test_a_step_that_changed_the_network_before_raises(
    before: Technique, changed_first: str
) -> None:
    changed = before.apply(tiny.state(), DATA, quiet())
    with pytest.raises(
        ValueError, match=f"must be the first step; an earlier step changed '{changed_first}'"
    ):
        _ticket().apply(changed, DATA, quiet())


def test_rewinding_to_the_end_of_the_schedule_raises() -> None:
    with pytest.raises(
        ValueError, match=f"less than the {STEPS} steps of the schedule, got {STEPS}"
    ):
        _ticket(rewind_steps=STEPS).apply(tiny.state(), DATA, quiet())
