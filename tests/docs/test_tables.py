"""The reference tables of the pages have a row for everything that the code defines."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from serving.errors import STATUS, ServingError
from serving.gateway.settings import Settings
from serving.protocol.openapi.slo_schemas import EXPERIMENT, EXPLANATION
from serving.routing.policy import POLICIES
from serving.routing.slo import HEADERS, PARAMETERS
from tests.docs.pages import ROOT
from variants.compression.techniques import TECHNIQUES

PREFIX = Settings.model_config["env_prefix"]
DELIMITER = Settings.model_config["env_nested_delimiter"] or ""


def section(page: str, heading: str) -> str:
    """Return the text between a heading of the second level and the next one."""
    text = (ROOT / "docs" / page).read_text()
    return text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of the rows of all tables, without the lines below the column names."""
    cells = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in cells if set(row[0]) - set("-: ")]


def names(table: list[list[str]]) -> set[str]:
    """Return the names in backticks in the first column."""
    return {name for row in table for name in re.findall(r"`([^`]+)`", row[0])}


def setting_rows(
    fields: dict[str, FieldInfo], prefix: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, str]]:
    for name, field in fields.items():
        path = (*prefix, name)
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from setting_rows(type(default).model_fields, path)
            continue
        text = "none" if default is None else f"`{default}`" if default not in ((), {}) else "empty"
        variable = PREFIX + DELIMITER.join(path)
        yield f"`{'.'.join(path)}`", f"`{variable.upper()}`", text


def test_the_table_of_settings_is_complete_and_has_the_defaults() -> None:
    table = rows((ROOT / "docs/settings.md").read_text())
    documented = [tuple(row[:3]) for row in table if row[0] != "setting"]
    assert documented == list(setting_rows(Settings.model_fields))


def test_the_table_of_policies_is_complete() -> None:
    assert names(rows((ROOT / "docs/routing.md").read_text())) == POLICIES.keys()


def test_the_table_of_techniques_is_complete() -> None:
    before = (ROOT / "docs/techniques.md").read_text().split("\n## ", 1)[0]
    assert names(rows(before)) == TECHNIQUES.keys()


def test_the_page_states_whether_each_technique_is_faster() -> None:
    assert names(rows(section("techniques.md", "What makes a model faster"))) == (
        TECHNIQUES.keys() - {"recover", "smoothquant"}  # neither changes what is computed
    )


@pytest.mark.parametrize("error", STATUS, ids=lambda error: error.__name__)
def test_the_table_of_errors_has_it(error: type[ServingError]) -> None:
    status = STATUS[error]
    table = {row[0].split(",")[0]: row for row in rows(section("clients.md", "Errors"))}
    assert table[str(int(status.http))][1].split(",")[0] == f"`{status.grpc}`"


def test_the_tables_of_parameters_are_complete() -> None:
    text = section("clients.md", "Request parameters")
    assert names(rows(text)) == PARAMETERS.keys() - {"timeout"}
    assert {*re.findall(r"`([\w-]+)`", text)} >= PARAMETERS.keys() | HEADERS.keys()
    assert names(rows(section("clients.md", "Response parameters"))) == (
        EXPLANATION.keys() | EXPERIMENT.keys()
    )
