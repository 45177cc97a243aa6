"""The report as one self-contained HTML page: plots embedded, no scripts, no external resources."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from html import escape
from typing import Final

from variants.catalog.catalog import Catalog
from variants.catalog.comparison import BETTER, FASTER, SLOWER, WORSE, hardware_keys
from variants.report.tables import sections
from variants.report.text import REFERENCE, Section

_CLASSES: Final = {
    BETTER: "good",
    FASTER: "good",
    WORSE: "bad",
    SLOWER: "bad",
    REFERENCE: "quiet",
}

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; }
:root { --quiet: #767676; --good: #1a7f37; --bad: #c1121f; }
@media (prefers-color-scheme: dark) { :root { --quiet: #999; --good: #56d364; --bad: #ff7b72; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; }
body { margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; }
h3 { margin: 2rem 0 .4rem; font-size: 1.05rem; }
img { max-width: 100%; background: #fff; }
nav { columns: 16rem; font-size: .9rem; }
nav a { display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; text-align: right; white-space: nowrap; vertical-align: top; }
th { font-weight: 600; border-bottom: 1px solid var(--line); }
tr.first td { border-top: 1px solid var(--line); }
td.words, th.words { text-align: left; }
td.words:last-child { white-space: normal; overflow-wrap: anywhere; }
p.note, .quiet { color: var(--quiet); }
p.note { font-size: .88rem; margin: .3rem 0; max-width: 60rem; }
.good { color: var(--good); }
.bad { color: var(--bad); }
"""


def render_html(catalog: Catalog, plots: Mapping[str, bytes]) -> str:
    """Return the report as HTML, with the same tables as the Markdown.

    `plots` are PNG images by title, shown at the top.
    """
    heading = escape(f"Report cards of {catalog.model.name}")
    keys = hardware_keys(catalog)
    images = "\n".join(_image(title, plot) for title, plot in plots.items())
    body = "\n".join(line for key in keys for line in _hardware(catalog, key))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{heading}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{heading}</h1>
{images}
{body or "<p>No variant has a report card yet.</p>"}
</body>
</html>
"""


def _image(title: str, plot: bytes) -> str:
    data = base64.b64encode(plot).decode()
    return f'<p><img alt="{escape(title)}" src="data:image/png;base64,{data}"></p>'


def _hardware(catalog: Catalog, key: str) -> Iterator[str]:
    tables = list(sections(catalog, key))
    anchors = [f"{key}-{number}" for number in range(1, len(tables) + 1)]
    yield f"<h2>{escape(key)}</h2>"
    yield "<nav>"
    for anchor, section in zip(anchors, tables, strict=True):
        yield f'<a href="#{escape(anchor)}">{escape(section.title)}</a>'
    yield "</nav>"
    for anchor, section in zip(anchors, tables, strict=True):
        yield f'<h3 id="{escape(anchor)}">{escape(section.title)}</h3>'
        yield from _table(section)
        if section.note:
            yield f'<p class="note">{escape(section.note)}</p>'


def _table(section: Section) -> Iterator[str]:
    yield '<div class="wide"><table>'
    if any(section.columns):
        cells = "".join(_cell("th", section, n, text) for n, text in enumerate(section.columns))
        yield f"<thead><tr>{cells}</tr></thead>"
    yield "<tbody>"
    is_grouped = not all(row[0] for row in section.rows)
    for row in section.rows:
        cells = "".join(_cell("td", section, n, text) for n, text in enumerate(row))
        opening = '<tr class="first">' if is_grouped and row[0] else "<tr>"
        yield f"{opening}{cells}</tr>"
    yield "</tbody></table></div>"


def _cell(tag: str, section: Section, column: int, text: str) -> str:
    classes = ["words"] if section.is_text_column(column) else []
    classes += [_CLASSES[text]] if text in _CLASSES else []
    mark = f' class="{" ".join(classes)}"' if classes else ""
    return f"<{tag}{mark}>{escape(text.strip())}</{tag}>"
