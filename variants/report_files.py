"""The report in the folder of the catalog: `report.md`, and the plot that it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from variants.catalog import Catalog
from variants.report import PLOT, render_markdown
from variants.report_plot import plot_frontier

REPORT: Final = "report.md"


def write_report(catalog: Catalog, folder: Path) -> Path:
    """Write the report of a catalog into its folder; return the Markdown file."""
    plot_frontier(catalog, folder / PLOT)
    (folder / REPORT).write_text(render_markdown(catalog))
    return folder / REPORT
