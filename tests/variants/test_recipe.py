from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from variants.recipe import Project, Step

GOOD = {
    "name": "small",
    "factory": "here:build",
    "datasets": "here:load",
    "weights": "weights.safetensors",
    "recipes": {"dense": [], "int8": [{"technique": "int8", "parameters": {"samples": 9}}]},
}


def _write(folder: Path, content: object) -> Path:
    path = folder / "recipes.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_project_is_read_and_its_weights_lie_beside_it(tmp_path: Path) -> None:
    project = Project.load(_write(tmp_path, GOOD))
    assert project.weights == tmp_path / "weights.safetensors"
    assert project.recipes["int8"] == (Step(technique="int8", parameters={"samples": 9}),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("a: [", "recipes.yaml is not valid YAML", id="no YAML"),
        pytest.param("7", "recipes.yaml: the file: ", id="no mapping"),
        pytest.param({**GOOD, "recipe": {}}, "recipe: Extra inputs", id="a typo"),
        pytest.param({**GOOD, "factory": "here.build"}, "factory: .*pattern", id="no reference"),
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


def test_a_missing_project_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no project file .*recipes\.yaml"):
        Project.load(tmp_path / "recipes.yaml")
