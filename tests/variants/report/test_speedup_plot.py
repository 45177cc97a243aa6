from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.container import ErrorbarContainer

from tests.variants.catalog.cards import around, card, catalog, latency
from variants.report.speedup_plot import draw_speedups, plot_speedups

CATALOG = catalog(
    {
        "dense": (card(0.9, latency(1, 0.001), latency(8, 0.002)),),
        "int8": (
            card(0.9, latency(1, 0.001, around(2, 0.5)), latency(8, 0.002, around(0.8, 0.1))),
        ),
    }
)


def test_every_variant_is_a_line_with_error_bars_and_1_is_marked() -> None:
    (axes,) = draw_speedups(CATALOG).axes
    lines = {
        str(container.get_label()): np.asarray(container.lines[0].get_xydata()).tolist()
        for container in axes.containers
        if isinstance(container, ErrorbarContainer)
    }
    assert lines == {"dense": [[1, 1], [8, 1]], "int8": [[1, 2], [8, 0.8]]}
    drawn = [one for one in axes.collections if isinstance(one, LineCollection)]
    bars = [segment.tolist() for one in drawn for segment in one.get_segments()]
    assert [[1, 1.5], [1, 2.5]] in bars
    assert np.isclose(bars, [[8, 0.7], [8, 0.9]]).all(axis=(1, 2)).any()
    assert any(set(np.asarray(line.get_ydata()).tolist()) == {1} for line in axes.lines)
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["dense", "int8"]


def test_a_plot_of_one_variant_at_one_batch_size_is_written_as_png(tmp_path: Path) -> None:
    plot_speedups(catalog({"dense": (card(0.9, latency(4, 1)),)}), tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_catalog_without_report_cards_is_rejected() -> None:
    with pytest.raises(ValueError, match="nothing to plot"):
        draw_speedups(catalog({"dense": ()}))
