from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import yaml

from tests.small import RECIPES, datasets, measure_lightly, network, quiet, weights
from tests.variants.model.projects import write_model, write_project
from tests.waiting import wait_until
from variants.build.build import build, measure_again
from variants.catalog.artifact import DRAFTS, RECORD, read_all, write_record
from variants.catalog.catalog import Catalog
from variants.catalog.recipe import Project
from variants.catalog.sample_request import sample_path
from variants.runtime.plan import storable_tensors


@pytest.fixture
def project(small_project: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a copy of the small project with some entries changed."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "recipes.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(small_project.read_text()) | changes))
        return path

    return write


def _build(project: Path, catalog: Path, *only: str) -> Catalog:
    return build(project, catalog, progress=quiet(), only=only, measure=measure_lightly)


def _interrupted(*args: object, **kwargs: object) -> Any:
    raise RuntimeError("interrupted")


def test_a_build_saves_and_measures_every_recipe(small_project: Path, small_catalog: Path) -> None:
    catalog = Catalog.load(small_catalog)
    assert list(catalog.variants) == ["dense", "activation-pruned", "int8", "sparse-2:4"]
    for name, variant in catalog.variants.items():
        assert variant.recipe == Project.load(small_project).recipes[name]
        assert len(variant.report_cards) == 1
        on_disk = {path.name for path in (small_catalog / name).iterdir()}
        assert read_all(small_catalog / name, variant).keys() | {RECORD} == on_disk
    assert {name: variant.runner for name, variant in catalog.variants.items()} == {
        "dense": "onnx", "activation-pruned": "onnx", "int8": "onnx", "sparse-2:4": "torch",
    }  # fmt: skip
    assert "packed layers are computed" in catalog.variants["sparse-2:4"].notes[-1]


def test_techniques_make_the_artifacts_smaller(small_catalog: Path) -> None:
    cards = {n: v.report_cards[0] for n, v in Catalog.load(small_catalog).variants.items()}
    assert cards["activation-pruned"].parameters < 0.8 * cards["dense"].parameters
    assert cards["sparse-2:4"].nonzeros < 0.52 * cards["dense"].nonzeros
    assert cards["int8"].weight_bytes < 0.3 * cards["dense"].weight_bytes
    assert all(card.accuracy.value > 0.75 for card in cards.values())


def test_the_dense_weights_are_saved(small_catalog: Path) -> None:
    kept = safetensors.torch.load_file(small_catalog / "dense" / "weights.safetensors")
    trained = safetensors.torch.load_file(weights())
    assert kept.keys() == trained.keys() == network().state_dict().keys()
    assert all(np.array_equal(kept[name], trained[name]) for name in trained)


def test_a_catalog_has_a_sample_request(small_catalog: Path) -> None:
    (tensor,) = json.loads(sample_path(small_catalog).read_bytes())["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("input", "FP32", [1, 784])
    sent = np.array(tensor["data"], dtype=np.float32)
    assert np.array_equal(sent, datasets().validation.samples["input"][0])


def test_named_variants_are_added_to_the_catalog(
    project: Callable[..., Path], tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog"
    first = _build(project(), catalog, "int8")
    assert list(first.variants) == ["dense", "int8"]  # dense too, since others are measured with it
    before = (catalog / "int8" / RECORD).read_bytes()
    second = _build(project(), catalog, "sparse-2:4")
    assert list(second.variants) == ["dense", "int8", "sparse-2:4"]
    assert (catalog / "int8" / RECORD).read_bytes() == before
    assert len(second.variants["dense"].report_cards) == 1


def test_a_build_of_all_variants_removes_those_of_another_project(
    project: Callable[..., Path], tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog"
    two = {name: RECIPES[name] for name in ("dense", "int8")}
    _build(project(recipes=two), catalog)
    assert list(_build(project(recipes={"dense": []}), catalog).variants) == ["dense"]
    assert {path.name for path in catalog.iterdir()} == {
        "dense",
        "catalog.json",
        "request.json",
        DRAFTS,
    }


def test_a_first_build_that_is_interrupted_leaves_no_catalog(
    project: Callable[..., Path], tmp_path: Path
) -> None:
    catalog, path = tmp_path / "catalog", project(recipes={"dense": []})
    with pytest.raises(RuntimeError, match="interrupted"):
        build(path, catalog, progress=quiet(), measure=_interrupted)
    with pytest.raises(ValueError, match="is not a catalog"):
        Catalog.load(catalog)
    assert list(_build(path, catalog).variants) == ["dense"]


def test_a_build_that_fails_while_measuring_does_not_change_the_catalog(
    project: Callable[..., Path], tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog"
    before = _build(project(recipes={"dense": [], "a": []}), catalog)
    path = project(recipes={"dense": [], "b": []})
    with pytest.raises(RuntimeError, match="interrupted"):
        build(path, catalog, progress=quiet(), measure=_interrupted)
    assert Catalog.load(catalog) == before


def test_a_killed_build_does_not_change_the_catalog_and_the_next_one_succeeds(
    project: Callable[..., Path], tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog"
    before = _build(project(recipes={"dense": [], "a": []}), catalog)
    endless = [{"technique": "recover", "parameters": {"epochs": 1_000_000}}]
    path = project(recipes={"dense": [], "b": [], "c": endless})
    paretoserve = Path(sys.executable).with_name("paretoserve")
    command = [str(paretoserve), "build", str(path), "--catalog", str(catalog)]
    log = tmp_path / "build.log"
    with log.open("wb") as file:
        child = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=file,
            stderr=file,
        )
    try:
        wait_until(
            lambda: child.poll() is not None or any(catalog.glob(f"{DRAFTS}/build-*/b/{RECORD}"))
        )
        assert child.poll() is None, log.read_text()
    finally:
        child.kill()
        child.wait()
    assert Catalog.load(catalog) == before
    assert list(_build(project(recipes={"dense": [], "b": []}), catalog).variants) == ["dense", "b"]
    assert list((catalog / DRAFTS).iterdir()) == []
    assert not (catalog / "a").exists()


def test_an_interrupted_build_of_one_variant_does_not_change_the_catalog(
    project: Callable[..., Path], tmp_path: Path
) -> None:
    catalog, path = tmp_path / "catalog", project(recipes={"dense": [], "a": [], "b": []})
    before = _build(path, catalog, "a")
    for name in ("a", "b"):
        with pytest.raises(RuntimeError, match="interrupted"):
            build(path, catalog, progress=quiet(), only=(name,), measure=_interrupted)
        assert Catalog.load(catalog) == before
        assert list((catalog / DRAFTS).iterdir()) == []


TIED = """
class Images(nn.Module):
    def __init__(self):
        super().__init__()
        one, two = nn.Conv2d(2, 2, 2, padding=1), nn.Conv2d(2, 2, 2, padding=1)
        two.weight = one.weight
        self.layers = nn.Sequential(one, two, nn.Flatten(), nn.Linear(32, 3))
        self.layers.to(memory_format=torch.channels_last)
    def forward(self, x):
        return self.layers(x.view(-1, 2, 2, 2))
def network(): return Images()
"""


def test_tied_and_channels_last_networks_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path, monkeypatch, network=TIED)
    built = import_module(model).network()
    safetensors.torch.save_file(storable_tensors(built), tmp_path / "weights.safetensors")
    path = write_project(tmp_path, model, {})
    assert list(_build(path, tmp_path / "catalog").variants) == ["dense"]


@pytest.fixture
def other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module like the small project's, with other weights."""
    safetensors.torch.save_file(network().state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "small_otherwise.py").write_text(
        "from pathlib import Path\n"
        "from tests.small import datasets, network\n"
        "def weights(): return Path(__file__).with_name('weights.safetensors')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "small_otherwise"


def test_a_variant_of_other_weights_is_not_added(
    project: Callable[..., Path], tmp_path: Path, other_weights: str
) -> None:
    catalog, recipes = tmp_path / "catalog", {"dense": RECIPES["dense"], "same": RECIPES["dense"]}
    _build(project(recipes=recipes), catalog, "dense")
    with pytest.raises(ValueError, match="another model, weights or datasets than"):
        _build(project(model=other_weights, recipes=recipes), catalog, "same")
    assert list(Catalog.load(catalog).variants) == ["dense"]


def test_measuring_again_replaces_only_the_cards_of_this_machine(
    small_project: Path, small_catalog: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(small_catalog, tmp_path / "catalog")
    before = Catalog.load(copy)
    dense = before.variants["dense"]
    (card,) = dense.report_cards
    elsewhere = card.model_copy(
        update={"hardware": card.hardware.model_copy(update={"key": "another"})}
    )
    both = dense.model_copy(update={"report_cards": (elsewhere, card)})
    write_record(copy / "dense" / RECORD, both)

    after = measure_again(small_project, copy, progress=quiet(), measure=measure_lightly)
    assert after.variants.keys() == before.variants.keys()
    kept, new = after.variants["dense"].report_cards
    assert kept == elsewhere
    assert new.hardware == card.hardware
    assert new.measured_at >= card.measured_at
    assert new.latencies != card.latencies
    for name, variant in after.variants.items():
        assert variant.files == before.variants[name].files
        assert variant.report_cards[-1].accuracy == before.variants[name].report_cards[0].accuracy
    assert after == Catalog.load(copy)


def test_a_catalog_of_other_weights_is_not_measured_again(
    project: Callable[..., Path], tmp_path: Path, other_weights: str
) -> None:
    catalog, recipes = tmp_path / "catalog", {"dense": RECIPES["dense"]}
    before = _build(project(recipes=recipes), catalog)
    other = project(model=other_weights, recipes=recipes)
    with pytest.raises(ValueError, match="another model, weights or datasets than the project's"):
        measure_again(other, catalog, progress=quiet(), measure=_interrupted)
    assert Catalog.load(catalog) == before


def test_a_folder_that_is_not_a_catalog_is_not_measured(
    small_project: Path, tmp_path: Path
) -> None:
    (tmp_path / DRAFTS / "build-of-another").mkdir(parents=True)
    with pytest.raises(ValueError, match="is not a catalog"):
        measure_again(small_project, tmp_path, progress=quiet(), measure=_interrupted)
    assert (tmp_path / DRAFTS / "build-of-another").exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ([{"technique": "int3"}], r"recipes\.x: unknown technique 'int3'"),
        ([{"technique": "int8"}, {"technique": "sparse-n:m"}], r"step 2, 'sparse-n:m', cannot"),
        ([{"technique": "int8", "parameters": {"bits": 4}}], r"x: invalid parameters of .*bits"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_refused_before_anything_is_built(
    project: Callable[..., Path], tmp_path: Path, recipe: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _build(project(recipes={"dense": [], "x": recipe}), tmp_path / "catalog", "dense")
    assert not (tmp_path / "catalog").exists()


def test_an_unknown_variant_is_refused_with_the_known_ones(
    project: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"no recipe for int7; it has .*dense"):
        _build(project(), tmp_path / "catalog", "int7")


def test_a_failing_step_is_named(project: Callable[..., Path], tmp_path: Path) -> None:
    recipe = [{"technique": "sparse-n:m", "parameters": {"min_rows": 999}}]
    with pytest.raises(
        ValueError, match="x: sparse-n:m: sparse-n:m cannot be applied to any layer"
    ):
        _build(project(recipes={"dense": [], "x": recipe}), tmp_path / "catalog")
