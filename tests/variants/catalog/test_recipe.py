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
        pytest.param("a: [", "recipes.yaml: line 1: not valid YAML", id="invalid YAML"),
        pytest.param("7", "recipes.yaml: line 1: the file: must be a mapping", id="not a mapping"),
        pytest.param(
            {**GOOD, "recipe": {}},
            "recipe: no such field; the fields are name, model, recipes",
            id="a typo",
        ),
        pytest.param(
            {**GOOD, "model": "here/model.py"},
            "line [0-9]+: model: must be an import path with dots",
            id="not an import path",
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
            "recipes.Bad Name: must be a name of 1 to 63 lower-case letters",
            id="invalid variant name",
        ),
        pytest.param(
            {**GOOD, "recipes": {"dense": [], "x": [{"tecnique": "int8"}]}},
            r"recipes\.x\.0\.technique: is required",
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
        line.removeprefix(f"{path}: ").split(": ")[1:3] for line in str(raised.value).split("\n")
    ]
    assert [field for field, _ in problems] == [
        "name", "model", "recipes.dense.0.technique", "recipes.dense.0.kind", "factory",
    ]  # fmt: skip
    assert problems[1][1] == "is required"
    assert problems[3][1] == "no such field; the fields are technique, parameters"


def test_a_missing_project_file_raises_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no project file .*recipes\.yaml"):
        Project.load(tmp_path / "recipes.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "name: a\nmodel: m\nrecipes:\n  dense: []\n  x: [{technique: int8}]\n  x: []\n",
            "line 6: 'x' is there twice, first in line 5; remove or rename one",
            id="two recipes of one name",
        ),
        pytest.param(
            "name: a\nname: b\nmodel: m\nrecipes: {dense: []}\n",
            "line 2: 'name' is there twice, first in line 1",
            id="a field twice",
        ),
        pytest.param(
            "name: a\nmodel: m\nrecipes:\n  dense: []\n  x:\n  - technique: int8\n"
            "    parameters: {mode: dynamic, mode: static}\n",
            "line 7: 'mode' is there twice",
            id="a parameter twice",
        ),
        pytest.param(
            "name: a\nmodel: m\nrecipes:\n  dense: []\n  x: int8\n",
            "line 5: recipes.x: must be a list, as in .*; got 'int8'",
            id="a recipe that is no list",
        ),
        pytest.param(
            "name: a\nmodel: m\nrecipes:\n  dense: []\n  x: [int8]\n",
            "line 5: recipes.x.0: must be a mapping, as in `name: value`; got 'int8'",
            id="a step that is no mapping",
        ),
    ],
)
def test_messages_name_the_line_and_what_would_be_right(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "recipes.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        Project.load(path)
    assert str(raised.value).startswith(f"{path}: line ")


def test_anchors_and_merged_keys_are_not_keys_that_are_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "recipes.yaml"
    path.write_text(
        "name: a\nmodel: m\nrecipes:\n  dense: []\n  x: [&s {technique: int8}]\n  y: [*s, *s]\n"
        "  z: [{<<: *s, technique: fp16}]\n"
    )
    recipes = Project.load(path).recipes
    assert recipes["y"] == recipes["x"] * 2
    assert recipes["z"][0].technique == "fp16"
