from __future__ import annotations

import pytest

from variants.analysis.sensitivity.budget import allocate
from variants.analysis.sensitivity.layers import LayerSensitivity, Sensitivity, SensitivityPoint
from variants.catalog.catalog import Interval


def layer(name: str, weights: int, *drops: float) -> LayerSensitivity:
    """Make a layer with these losses, in points, at sparsities 0, 0.5 and 0.9."""
    return LayerSensitivity(
        layer=name,
        kind="Linear",
        weights=weights,
        points=tuple(
            SensitivityPoint(sparsity=s, difference=Interval(value=-d / 100, low=-1, high=1))
            for s, d in zip((0.0, 0.5, 0.9), drops, strict=True)
        ),
    )


def network(*curves: LayerSensitivity) -> Sensitivity:
    accuracy = Interval(value=0.9, low=0.8, high=0.95)
    return Sensitivity(model="m", samples=100, accuracy=accuracy, curves=curves)


TWO = network(layer("big", 900, 0, 0.1, 0.4), layer("small", 100, 0, 1.0, 20.0))


def test_the_layer_that_loses_least_per_weight_goes_first() -> None:
    allocation = allocate(TWO, target_share=0.45)
    assert allocation.shares == pytest.approx({"big": 0.5, "small": 0})
    assert (allocation.removed, allocation.expected_drop) == pytest.approx((0.45, 0.001))


def test_the_last_move_is_made_in_part_to_meet_the_target_exactly() -> None:
    allocation = allocate(TWO, target_share=0.6)
    assert allocation.shares == pytest.approx({"big": 0.6667, "small": 0}, abs=1e-4)
    assert allocation.removed == pytest.approx(0.6)
    assert allocation.expected_drop == pytest.approx(0.001 + 0.003 * 150 / 360)


def test_a_largest_drop_is_used_up_exactly() -> None:
    allocation = allocate(TWO, max_drop=0.009)
    assert allocation.shares == pytest.approx({"big": 0.9, "small": 0.25})
    assert allocation.expected_drop == pytest.approx(0.009)


def test_a_target_beyond_the_largest_drop_is_an_error_with_the_possible_share() -> None:
    with pytest.raises(ValueError, match=r"45\.0% .* within a drop of 0\.10%, not 80\.0%"):
        allocate(TWO, target_share=0.8, max_drop=0.001)
    with pytest.raises(ValueError, match=r"90\.0% .* the sparsities measured, not 95\.0%"):
        allocate(TWO, target_share=0.95)


def test_removal_without_loss_is_spread_over_the_layers() -> None:
    free = network(layer("a", 100, 0, 0, 0), layer("b", 100, 0, 0, 0))
    assert allocate(free, target_share=0.5).shares == pytest.approx({"a": 0.5, "b": 0.5})


def test_a_gain_is_noise_and_does_not_offset_other_losses() -> None:
    lucky = network(layer("a", 100, 0, -3.0, 1.0), layer("b", 100, 0, 1.0, 2.0))
    allocation = allocate(lucky, max_drop=0.0)
    assert allocation.shares == {"a": 0.5, "b": 0}
    assert allocation.expected_drop == 0


def test_a_layer_that_loses_only_at_first_is_raised_in_one_move() -> None:
    uneven = network(layer("a", 100, 0, 1.0, 1.0), layer("b", 100, 0, 0.8, 1.6))
    # Up to 0.9, `a` loses 1.0 point for 90 weights; `b` loses 0.8 for its first 50.
    assert allocate(uneven, target_share=0.45).shares == pytest.approx({"a": 0.9, "b": 0})


@pytest.mark.parametrize("limits", [{}, {"target_share": 1.5}, {"max_drop": -0.1}])
def test_limits_out_of_range_are_errors(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"allocate needs|must be a share"):
        allocate(TWO, **limits)
