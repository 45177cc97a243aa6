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
        pytest.param("a: [", "recipes.yaml is not valid YAML", id="invalid YAML"),
        pytest.param("7", "recipes.yaml: the file: ", id="not a mapping"),
        pytest.param(
            {**GOOD, "recipe": {}},
            "recipe: no such field; the fields are name, model, recipes",
            id="a typo",
        ),
        pytest.param(
            {**GOOD, "model": "here/model.py"}, "model: .*pattern", id="not an import path"
        ),
        pytest.param(
            {**GOOD, "recipes": {"int8": []}}, "must contain `dense: ..`", id="dense missing"
        ),
        pytest.param(
            {**GOOD, "recipes": {"dense": [{"technique": "int8"}]}},
            "`dense: ..`",
            id="dense with a step",
        ),
        pytest.param(
            {**GOOD, "recipes": {"dense": [], "Bad Name": []}},
            "recipes.Bad Name",
            id="invalid variant name",
        ),
        pytest.param(
            {**GOOD, "recipes": {"dense": [], "x": [{"tecnique": "int8"}]}},
            r"recipes\.x\.0\.technique: Field required",
            id="a typo in a step",
        ),
    ],
)
def test_an_invalid_project_raises_an_error_with_the_field(
    tmp_path: Path, content: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Project.load(_write(tmp_path, content))


def test_every_mistake_is_reported_on_its_own_line(tmp_path: Path) -> None:
    invalid = {"name": "Small", "factory": "here:build", "recipes": {"dense": [{"kind": "int8"}]}}
    path = _write(tmp_path, invalid)
    with pytest.raises(ValueError, match="factory") as raised:
        Project.load(path)
    problems = [
        line.removeprefix(f"{path}: ").split(": ")[:2] for line in str(raised.value).split("\n")
    ]
    assert [field for field, _ in problems] == [
        "name", "model", "recipes.dense.0.technique", "recipes.dense.0.kind", "factory",
    ]  # fmt: skip
    assert problems[1][1] == "Field required"
    assert problems[3][1] == "no such field; the fields are technique, parameters"


def test_a_missing_project_file_raises_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no project file .*recipes\.yaml"):
        Project.load(tmp_path / "recipes.yaml")
