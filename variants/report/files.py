"""Report files in the folder of the catalog: Markdown, HTML, JSON and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from variants.catalog.catalog import Catalog
from variants.report.frontier_plot import plot_frontier
from variants.report.html import render_html
from variants.report.speedup_plot import plot_speedups
from variants.report.tables import PLOTS, render_json, render_markdown

MARKDOWN: Final = "report.md"
HTML: Final = "report.html"
JSON: Final = "report.json"

_PLOTTERS: Final = {"frontier.png": plot_frontier, "speedups.png": plot_speedups}


def write_report(catalog: Catalog, folder: Path) -> Path:
    """Write the report of a catalog into its folder; return the path of the HTML file.

    Raises `ValueError` if no variant has a report card.
    """
    plots = {}
    for name, title in PLOTS.items():
        _PLOTTERS[name](catalog, folder / name)
        plots[title] = (folder / name).read_bytes()
    (folder / MARKDOWN).write_text(render_markdown(catalog))
    (folder / JSON).write_text(render_json(catalog) + "\n")
    (folder / HTML).write_text(render_html(catalog, plots))
    return folder / HTML
