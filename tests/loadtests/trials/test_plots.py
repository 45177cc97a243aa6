from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure

from loadtests.trials.calibration import calibration
from loadtests.trials.plot_calibration import draw_calibration
from loadtests.trials.plot_series import draw_dynamics, draw_timelines
from loadtests.trials.plot_style import COLOURS, policy_styles
from loadtests.trials.plot_sweep import draw_regret, draw_sweep, draw_tradeoff
from serving.routing.policy import POLICIES
from tests.loadtests.trials.sample_trial import (
    ACCURACY,
    BATCHES,
    OUTCOMES,
    trial,
    unanswered_outcomes,
)

FOUR = [(0.5, 1, 2), (0.9, 1, 2), (0.5, 8, 2), (0.9, 8, 2)]


def marks(axes: Axes) -> dict[str, list[list[float]]]:
    """Return the points with error bars by colour."""
    return {
        str(container.lines[0].get_color()): np.asarray(container.lines[0].get_xydata()).tolist()
        for container in axes.containers
        if isinstance(container, ErrorbarContainer)
    }


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_style_of_a_policy_does_not_depend_on_the_others() -> None:
    name = next(iter(POLICIES))
    alone, among = policy_styles([name])[name], policy_styles(["fixed: dense", "x", name])[name]
    assert (alone.colour, alone.shape, alone.line) == (among.colour, among.shape, among.line)
    assert alone.is_evaluated
    assert not among.is_evaluated


def test_styles_are_unique() -> None:
    many = policy_styles([f"policy {number}" for number in range(25)])
    assert len({(look.colour, look.shape, str(look.line)) for look in many.values()}) == 25


def test_the_tradeoff_has_a_panel_per_condition_with_a_mark_per_policy_with_answers() -> None:
    sample = trial(FOUR)
    figure = draw_tradeoff(sample, tuple(sample.scores))
    assert [axes.get_title("left") for axes in figure.axes] == [
        "CV² 1, load 0.5", "CV² 1, load 0.9", "CV² 8, load 0.5", "CV² 8, load 0.9",
    ]  # fmt: skip
    styles = policy_styles(sample.policies)
    points = marks(figure.axes[0])
    assert set(points) == {styles["slack"].colour, styles["worse"].colour}
    assert points[styles["slack"].colour] == [pytest.approx([89, 0.89])]
    assert legend(figure) == ["slack", "worse", "none"]


def test_conditions_that_are_not_a_matrix_are_four_in_a_row() -> None:
    sample = trial([(load, 1, 2) for load in (0.9, 0.5, 0.7, 1.1)] + [(0.5, 8, 2)])
    panels = draw_tradeoff(sample, tuple(sample.scores)).axes
    assert [axes.get_title("left") for axes in panels][3:] == ["CV² 1, load 1.1", "CV² 8, load 0.5"]
    # four in a row, and one below the first
    assert [bool(axes.get_xlabel()) for axes in panels] == [False, True, True, True, True]


def test_the_title_of_a_single_condition_is_its_label() -> None:
    for settings in ((0.5, 1, 2), (None, None, None)):
        sample = trial([settings])
        (axes,) = draw_tradeoff(sample, tuple(sample.scores)).axes
        assert axes.get_title("left") == sample.runs[0].condition.label


def test_a_sweep_has_a_line_per_policy_and_a_panel_per_other_setting() -> None:
    sample = trial(FOUR)
    figure = draw_sweep(sample, tuple(sample.scores), "load", "goodput_per_s")
    assert [axes.get_title("left") for axes in figure.axes] == [
        "deadline 2x, CV² 1", "deadline 2x, CV² 8",
    ]  # fmt: skip
    styles = policy_styles(sample.policies)
    assert marks(figure.axes[1]) == {
        styles["slack"].colour: [[0.5, 1.25], [0.9, 1.25]],
        styles["worse"].colour: [[0.5, 1.25], [0.9, 1.25]],
        styles["none"].colour: [[0.5, 0], [0.9, 0]],
    }


def test_a_sweep_omits_groups_with_one_value_and_shows_the_others_completely() -> None:
    sample = trial([(0.5, 1, 2), (0.9, 1, 2), (0.5, 8, 2), (0.5, 1, 3), (1.3, 1, 3)])
    figure = draw_sweep(sample, tuple(sample.scores), "load", "goodput_per_s")
    assert [axes.get_title("left") for axes in figure.axes] == [
        "deadline 2x, CV² 1", "deadline 3x, CV² 1",
    ]  # fmt: skip
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert low == 0
        assert high > 1.25


def test_intervals_of_shares_are_limited_to_0_and_1() -> None:
    sample = trial(FOUR)
    figure = draw_sweep(sample, tuple(sample.scores), "load", "attainment")
    assert figure.axes[0].get_yscale() == "function"
    ends = [
        end
        for container in figure.axes[0].containers
        if isinstance(container, ErrorbarContainer)
        for bar in container.lines[2][0].get_segments()
        for end in bar[:, 1].tolist()
    ]
    # slack: 0.89 ± 0.127; worse: 0.79 ± 0.127; none: 0
    assert max(ends) == 1
    assert min(ends) == 0
    assert any(end == pytest.approx(0.79 - 0.12706, abs=1e-4) for end in ends)


def test_regret_is_drawn_by_policy_with_the_least_on_top() -> None:
    figure = draw_regret(trial(FOUR))
    (axes,) = figure.axes
    assert {label.get_text() for label in axes.get_yticklabels()} == {"slack", "worse"}
    assert [text.get_text() for text in axes.texts] == ["mean 37.5, worst 37.5"] * 2
    first = np.asarray(axes.lines[0].get_xdata())
    np.testing.assert_allclose(first, [37.5] * 4)


def test_timelines_show_rates_accuracies_and_violations_with_totals() -> None:
    figure = draw_timelines([OUTCOMES, unanswered_outcomes()], ACCURACY)
    goodput, total, accuracy, drop, violations, ratio = figure.axes
    ours = np.asarray(goodput.lines[-2].get_ydata())
    assert ours.sum() * 4 / len(ours) == pytest.approx(5)  # requests on time
    assert np.nanmin(np.asarray(accuracy.lines[0].get_ydata())) == pytest.approx(80)
    assert np.isnan(np.asarray(accuracy.lines[1].get_ydata())).all()
    assert np.nanmax(np.asarray(violations.lines[1].get_ydata())) == 100
    heights = [
        [bar.get_height() for bars in axes.containers if isinstance(bars, BarContainer)
         for bar in bars]
        for axes in (total, drop, ratio)
    ]  # fmt: skip
    assert heights == [[1.25, 0], [pytest.approx(100 * (1 - 0.8 / 0.95))], [37.5, 100]]
    assert legend(figure) == ["slack", "none"]


def test_timelines_of_some_policies_have_the_colours_of_plots_of_all() -> None:
    policies = ["slack", "worse", "none"]
    figure = draw_timelines([OUTCOMES, unanswered_outcomes()], ACCURACY, policies)
    accuracies = figure.axes[2].lines
    styles = policy_styles(policies)
    assert [line.get_color() for line in accuracies] == [
        styles["slack"].colour,
        styles["none"].colour,
    ]
    assert legend(figure) == ["slack", "none"]


def test_dynamics_stack_the_variants_with_the_most_accurate_at_the_bottom() -> None:
    figure = draw_dynamics(OUTCOMES, ACCURACY)
    shares = figure.axes[1]
    legend_of_shares = shares.get_legend()
    assert legend_of_shares is not None
    assert [text.get_text() for text in legend_of_shares.get_texts()] == [
        "tiny (80.00 %)", "dense (95.00 %)",
    ]  # fmt: skip
    dense, tiny = (bars for bars in shares.containers if isinstance(bars, BarContainer))
    assert dense[0].get_height() == 100
    assert tiny[0].get_height() == 0
    only_tiny = replace(OUTCOMES, variant=np.where(OUTCOMES.variant >= 0, 1, -1).astype(np.int16))
    colours = {
        bars[0].get_facecolor()
        for outcomes in (OUTCOMES, only_tiny)
        for bars in draw_dynamics(outcomes, ACCURACY).axes[1].containers
        if isinstance(bars, BarContainer) and str(bars.get_label()).startswith("tiny")
    }
    assert len(colours) == 1


def test_calibration_is_drawn_by_variant_and_over_time() -> None:
    measured = calibration(BATCHES, ("dense", "tiny"), 4.0)
    assert measured is not None
    by_variant, over_time = draw_calibration(measured, "slack").axes
    assert [label.get_text() for label in by_variant.get_yticklabels()] == [
        "tiny  (2 batches)", "dense  (3 batches)", "all  (5 batches)",
    ]  # fmt: skip
    assert marks(by_variant)[COLOURS[0]] == [[50, 0], [100, 1], [80, 2]]
    assert marks(over_time)[COLOURS[0]] == [[0, 100], [1, 0], [2, 100], [3, 100]]


def test_plots_without_data_are_rejected() -> None:
    sample = trial()
    with pytest.raises(ValueError, match="nothing to plot"):
        draw_tradeoff(sample, ())
    with pytest.raises(ValueError, match="nothing to plot"):
        draw_sweep(sample, tuple(sample.scores), "load", "attainment")
    unbound = [run for run in sample.runs if run.score.policy == "none"]
    with pytest.raises(ValueError, match="no regret"):
        draw_regret(sample.model_copy(update={"runs": tuple(unbound)}))
    with pytest.raises(ValueError, match="same workload"):
        draw_timelines([], ACCURACY)
