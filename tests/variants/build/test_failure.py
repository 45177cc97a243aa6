from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.small import measure_lightly, quiet
from tests.variants.model.projects import write_model, write_project, write_weights
from variants.build.build import build
from variants.build.failure import RecipesFailed
from variants.catalog.catalog import Catalog

GOOD = [{"technique": "fp16"}]
IMPOSSIBLE = [{"technique": "structured", "parameters": {"share": 0.999}}]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    write_weights(tmp_path)
    return write_model(tmp_path, monkeypatch)


def _build(folder: Path, model: str, recipes: dict[str, Any], **options: Any) -> Catalog:
    path = write_project(folder, model, recipes)
    return build(path, folder / "catalog", progress=quiet(), measure=measure_lightly, **options)


def test_what_succeeded_is_kept_and_what_failed_is_named(tmp_path: Path, model: str) -> None:
    with pytest.raises(RecipesFailed) as raised:
        _build(tmp_path, model, {"bad": IMPOSSIBLE, "good": GOOD})
    assert list(raised.value.failures) == ["bad"]
    first, line = str(raised.value).split("\n")
    assert first == "1 of 3 recipes could not be built; the catalog holds dense, good"
    assert line.startswith("  bad: structured: ")
    kept = Catalog.load(tmp_path / "catalog")
    assert list(kept.variants) == ["dense", "good"] == list(raised.value.catalog.variants)
    assert kept.variants["good"].report_cards
    assert [step.technique for step in kept.variants["good"].coverage] == ["fp16"]


def test_a_failure_of_any_kind_leaves_the_others(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from variants.compression.techniques.half import Bf16

    def apply(*args: object) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(Bf16, "apply", apply)
    with pytest.raises(RecipesFailed, match="bad: RuntimeError: out of; memory"):
        _build(tmp_path, model, {"bad": [{"technique": "bf16"}], "good": GOOD})
    assert "good" in Catalog.load(tmp_path / "catalog").variants


def test_fail_fast_raises_the_first_error_and_keeps_nothing(tmp_path: Path, model: str) -> None:
    with pytest.raises(ValueError, match="bad: structured") as raised:
        _build(tmp_path, model, {"bad": IMPOSSIBLE, "good": GOOD}, fail_fast=True)
    assert not isinstance(raised.value, RecipesFailed)
    assert not (tmp_path / "catalog" / "catalog.json").exists()


def test_an_older_variant_of_a_failed_recipe_stays_only_in_an_addition(
    tmp_path: Path, model: str
) -> None:
    _build(tmp_path, model, {"x": GOOD})
    with pytest.raises(RecipesFailed):
        _build(tmp_path, model, {"x": IMPOSSIBLE}, only=["x"])
    assert "x" in Catalog.load(tmp_path / "catalog").variants
    with pytest.raises(RecipesFailed):
        _build(tmp_path, model, {"x": IMPOSSIBLE})
    assert list(Catalog.load(tmp_path / "catalog").variants) == ["dense"]
