from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.variants.catalog.cards import card, catalog, latency
from variants.catalog.catalog import Catalog
from variants.report.frontier_plot import draw_frontier, plot_frontier

CATALOG = catalog(
    {
        "dense": (card(0.90, latency(1, 0.003), latency(8, 0.02), latency(64, 0.1)),),
        "int8": (card(0.89, latency(1, 0.001), latency(8, 0.006), latency(64, 0.03)),),
        "slow": (card(0.88, latency(1, 0.002), latency(8, 0.012), latency(64, 0.01)),),
    }
)


def names(figure: Figure, panel: int, *, is_best: bool) -> set[str]:
    weight = "bold" if is_best else "normal"
    return {t.get_text() for t in figure.axes[panel].texts if t.get_fontweight() == weight}


def test_each_panel_marks_the_frontier_of_its_batch_size() -> None:
    figure = draw_frontier(CATALOG)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["batch 1", "batch 64"]
    assert names(figure, 0, is_best=True) == {"dense", "int8"}
    assert names(figure, 0, is_best=False) == {"slow"}
    assert names(figure, 1, is_best=True) == {"dense", "int8", "slow"}


def test_points_are_at_median_latency_and_accuracy() -> None:
    axes = draw_frontier(CATALOG, panels=(8,)).axes[0]
    marks = [np.asarray(line.get_xydata()) for line in axes.lines if line.get_marker() != "None"]
    points = {(round(float(x), 6), round(float(y), 6)) for mark in marks for x, y in mark}
    assert points == {(20, 90), (6, 89), (12, 88)}


def test_every_label_is_drawn_once_and_inside_its_panel() -> None:
    long = "a-name-of-forty-characters-is-rather-long"
    at_the_edge = card(0.91, latency(1, 0.004), latency(8, 0.03), latency(64, 0.2))
    cards = {name: variant.report_cards for name, variant in CATALOG.variants.items()}
    figure = draw_frontier(catalog({**cards, long: (at_the_edge,)}), panels=(1, 8, 64))
    for axes in figure.axes:
        assert sorted(text.get_text() for text in axes.texts) == sorted([*cards, long])
        for text in axes.texts:
            box = text.get_window_extent()
            assert axes.bbox.x0 <= box.x0 <= box.x1 <= axes.bbox.x1


@pytest.mark.parametrize(
    "small",
    [
        pytest.param(catalog({"dense": (card(),)}), id="one variant"),
        pytest.param(catalog({"dense": (card(),), "twin": (card(),)}), id="two equal points"),
        pytest.param(catalog({"dense": (card(0.9, latency(4, 1)),)}), id="one batch size"),
    ],
)
def test_catalogs_with_few_points_are_drawn(small: Catalog, tmp_path: Path) -> None:
    plot_frontier(small, tmp_path / "p.png")
    header = (tmp_path / "p.png").read_bytes()[:24]
    width, height = struct.unpack(">II", header[16:])
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert width > height > 600


def test_a_catalog_without_report_cards_is_rejected() -> None:
    with pytest.raises(ValueError, match="nothing to plot"):
        draw_frontier(catalog({"dense": ()}))
