from __future__ import annotations

import pytest

from variants.analysis.sensitivity.budget import allocate
from variants.analysis.sensitivity.layers import Curve, Sensitivity, SensitivityPoint
from variants.catalog.catalog import Interval


def curve(layer: str, weights: int, *drops: float) -> Curve:
    """Make a curve of what is lost, in points, at 0, 0.5 and 0.9."""
    return Curve(
        layer=layer,
        kind="Linear",
        weights=weights,
        points=tuple(
            SensitivityPoint(sparsity=s, difference=Interval(value=-d / 100, low=-1, high=1))
            for s, d in zip((0.0, 0.5, 0.9), drops, strict=True)
        ),
    )


def network(*curves: Curve) -> Sensitivity:
    accuracy = Interval(value=0.9, low=0.8, high=0.95)
    return Sensitivity(model="m", samples=100, accuracy=accuracy, curves=curves)


TWO = network(curve("big", 900, 0, 0.1, 0.4), curve("small", 100, 0, 1.0, 20.0))


def test_the_layer_that_loses_least_per_weight_goes_first() -> None:
    found = allocate(TWO, target_share=0.45)
    assert found.shares == pytest.approx({"big": 0.5, "small": 0})
    assert (found.removed, found.expected_drop) == pytest.approx((0.45, 0.001))


def test_the_last_move_is_made_in_part_so_that_the_target_is_met_exactly() -> None:
    found = allocate(TWO, target_share=0.6)
    assert found.shares == pytest.approx({"big": 0.6667, "small": 0}, abs=1e-4)
    assert found.removed == pytest.approx(0.6)
    assert found.expected_drop == pytest.approx(0.001 + 0.003 * 150 / 360)


def test_a_largest_drop_is_used_up_and_not_exceeded() -> None:
    found = allocate(TWO, max_drop=0.009)
    assert found.shares == pytest.approx({"big": 0.9, "small": 0.25})
    assert found.expected_drop == pytest.approx(0.009)


def test_a_target_beyond_the_largest_drop_is_refused_with_what_can_be_had() -> None:
    with pytest.raises(ValueError, match=r"45\.0% .* within a drop of 0\.10%, not 80\.0%"):
        allocate(TWO, target_share=0.8, max_drop=0.001)
    with pytest.raises(ValueError, match=r"90\.0% .* the sparsities measured, not 95\.0%"):
        allocate(TWO, target_share=0.95)


def test_free_removal_is_spread_before_any_layer_goes_deeper() -> None:
    free = network(curve("a", 100, 0, 0, 0), curve("b", 100, 0, 0, 0))
    assert allocate(free, target_share=0.5).shares == pytest.approx({"a": 0.5, "b": 0.5})


def test_a_gain_is_noise_and_buys_nothing_elsewhere() -> None:
    lucky = network(curve("a", 100, 0, -3.0, 1.0), curve("b", 100, 0, 1.0, 2.0))
    found = allocate(lucky, max_drop=0.0)
    assert found.shares == {"a": 0.5, "b": 0}
    assert found.expected_drop == 0


def test_a_step_dear_at_first_and_free_after_is_taken_whole() -> None:
    hollow = network(curve("a", 100, 0, 1.0, 1.0), curve("b", 100, 0, 0.8, 1.6))
    # Over both steps `a` costs 1.0 for 90 weights; `b` 0.8 for its first 50.
    assert allocate(hollow, target_share=0.45).shares == pytest.approx({"a": 0.9, "b": 0})


@pytest.mark.parametrize("limits", [{}, {"target_share": 1.5}, {"max_drop": -0.1}])
def test_limits_that_mean_nothing_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"allocate needs|must be a share"):
        allocate(TWO, **limits)
