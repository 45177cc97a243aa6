from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

from tests.variants.catalog.cards import answers, around, card, catalog, class_difference, latency
from variants.catalog.catalog import Catalog
from variants.report.files import HTML, JSON, MARKDOWN, write_report
from variants.report.html import render_html
from variants.report.tables import PLOTS, render_markdown, sections

CATALOG = catalog(
    {
        "dense": (card(0.9),),
        "int8": (
            card(
                0.85,
                latency(1, 0.001, around(2, 0.1)),
                latency(64, 0.01, around(0.5, 0.1)),
                difference=around(-0.05, 0.01),
                comparison=answers(
                    class_difference(0, around(-0.1, 0.05), 0.001), lost=3, most_hit=(4,)
                ),
            ),
        ),
    },
    notes=("layers <a> & 'b' stay dense",),
)

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """A strict parser: every element must be closed in order. Keeps tags, links, ids and cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.cells: list[tuple[str, str]] = []
        self._class = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._class = ""
        for name, value in attrs:
            if name in ("src", "href"):
                self.addresses.append(value or "")
            elif name == "id":
                self.ids.append(value or "")
            elif name == "class":
                self._class = value or ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append((self._class, data))


def test_the_page_is_well_formed_and_self_contained() -> None:
    html = render_html(CATALOG, {"A picture": b"picture"})
    page = Page(html)
    assert page.open == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in html
    assert "@import" not in html
    (picture,) = (one for one in page.addresses if not one.startswith("#"))
    assert picture == "data:image/png;base64," + base64.b64encode(b"picture").decode()
    assert {one.removeprefix("#") for one in page.addresses if one != picture} == set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_the_page_has_every_cell_of_every_section() -> None:
    cells = {data for _, data in Page(render_html(CATALOG, {})).cells}
    for section in sections(CATALOG, "cpu-t1"):
        for row in section.rows:
            assert {cell.strip() for cell in row} - {""} <= cells
    titles = [line[4:] for line in render_markdown(CATALOG).splitlines() if line.startswith("###")]
    html = render_html(CATALOG, {})
    assert all(f">{title}</h3>" in html for title in titles)


def test_verdicts_are_coloured() -> None:
    cells = Page(render_html(CATALOG, {})).cells
    assert ("words good", "faster") in cells
    assert ("words bad", "slower") in cells
    assert ("words bad", "worse") in cells
    assert ("words quiet", "reference") in cells


def test_markup_in_texts_is_escaped() -> None:
    html = render_html(CATALOG, {})
    assert "layers &lt;a&gt; &amp; &#x27;b&#x27; stay dense" in html
    assert "<a>" not in html


def test_each_kind_of_hardware_has_its_own_anchors() -> None:
    other = card(0.5, key="other-t4", measured_at="2025-01-01")
    page = Page(render_html(catalog({"dense": (card(), other)}), {}))
    assert {"cpu-t1-1", "other-t4-1"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_a_catalog_without_report_cards_has_a_placeholder() -> None:
    html = render_html(catalog({"dense": ()}), {})
    assert Page(html).open == []
    assert "No variant has a report card yet." in html


def test_the_report_is_written_in_every_format(tmp_path: Path) -> None:
    assert write_report(CATALOG, tmp_path) == tmp_path / HTML
    assert {path.name for path in tmp_path.iterdir()} == {MARKDOWN, HTML, JSON, *PLOTS}
    assert (tmp_path / MARKDOWN).read_text() == render_markdown(CATALOG)
    assert Catalog.model_validate_json((tmp_path / JSON).read_text()) == CATALOG
    plots = {title: (tmp_path / file).read_bytes() for file, title in PLOTS.items()}
    assert len(set(plots.values())) == 2
    assert (tmp_path / HTML).read_text() == render_html(CATALOG, plots)
    for title, plot in plots.items():
        assert base64.b64encode(plot).decode() in (tmp_path / HTML).read_text()
        assert f"![{title}]" in (tmp_path / MARKDOWN).read_text()
