from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from variants.catalog.recipe import Project, Step

GOOD = {
    "name": "small",
    "model": "here.model",
    "recipes": {"dense": [], "int8": [{"technique": "int8", "parameters": {"samples": 9}}]},
}


def _write(folder: Path, content: object) -> Path:
    path = folder / "recipes.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_project_is_read(tmp_path: Path) -> None:
    project = Project.load(_write(tmp_path, GOOD))
    assert (project.name, project.model) == ("small", "here.model")
    assert project.recipes["int8"] == (Step(technique="int8", parameters={"samples": 9}),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("a: [", "recipes.yaml is not valid YAML", id="no YAML"),
        pytest.param("7", "recipes.yaml: the file: ", id="no mapping"),
        pytest.param(
            {**GOOD, "recipe": {}},
            "recipe: no such field; there are name, model, recipes",
            id="a typo",
        ),
        pytest.param({**GOOD, "model": "here/model.py"}, "model: .*pattern", id="no import path"),
        pytest.param({**GOOD, "recipes": {"int8": []}}, "must contain `dense: ..`", id="no dense"),
        pytest.param(
            {**GOOD, "recipes": {"dense": [{"technique": "int8"}]}}, "`dense: ..`", id="not dense"
        ),
        pytest.param(
            {**GOOD, "recipes": {"dense": [], "Bad Name": []}}, "recipes.Bad Name", id="bad name"
        ),
        pytest.param(
            {**GOOD, "recipes": {"dense": [], "x": [{"tecnique": "int8"}]}},
            r"recipes\.x\.0\.technique: Field required",
            id="a typo in a step",
        ),
    ],
)
def test_a_wrong_project_is_refused_with_the_place(
    tmp_path: Path, content: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Project.load(_write(tmp_path, content))


def test_every_mistake_is_told_on_a_line_of_its_own(tmp_path: Path) -> None:
    wrong = {"name": "Small", "factory": "here:build", "recipes": {"dense": [{"kind": "int8"}]}}
    path = _write(tmp_path, wrong)
    with pytest.raises(ValueError, match="factory") as refused:
        Project.load(path)
    places = [
        line.removeprefix(f"{path}: ").split(": ")[:2] for line in str(refused.value).split("\n")
    ]
    assert [place for place, _ in places] == [
        "name", "model", "recipes.dense.0.technique", "recipes.dense.0.kind", "factory",
    ]  # fmt: skip
    assert places[1][1] == "Field required"
    assert places[3][1] == "no such field; there are technique, parameters"


def test_a_missing_project_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no project file .*recipes\.yaml"):
        Project.load(tmp_path / "recipes.yaml")
