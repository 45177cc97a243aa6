"""The Python API: `import paretoserve as ps`."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import paretoserve as ps
from tests.small import datasets
from variants.catalog.catalog import Model, TensorSpec
from variants.catalog.recipe import Project
from variants.measurement.profiling import BATCH_SIZES, SECONDS_PER_POINT
from variants.measurement.report_card import chosen_measure
from variants.runtime.runner import Tensors

IMAGES = datasets().test.samples["input"][:5]


@pytest.fixture(scope="module")
def catalog(small_catalog: Path) -> ps.Catalog:
    return ps.open_catalog(small_catalog)


def test_the_package_exports_the_documented_names() -> None:
    assert ps.__all__ == [
        "BuildFailed", "Catalog", "Model", "Variant", "__version__", "build", "load",
        "open_catalog",
    ]  # fmt: skip
    assert all(hasattr(ps, name) for name in ps.__all__)
    assert ps.__version__ == version("paretoserve")


def test_the_import_loads_no_heavy_library() -> None:
    code = (
        "import sys, paretoserve\n"
        "print({'torch', 'onnxruntime', 'ray', 'grpc', 'numpy', 'pydantic'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_the_first_session_in_a_notebook(small_project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "catalog"
    catalog = ps.build(small_project, folder, only=["int8"], seconds_per_point=0.01, progress=False)
    assert list(catalog) == ["dense", "int8"]
    assert catalog["int8"].report.accuracy.value > 0.7
    assert (folder / "report.html").is_file()

    model = ps.load(str(folder), "int8")
    scores = model(IMAGES)
    assert scores.shape == (5, 10)
    assert scores.dtype == np.float32
    (outputs,) = ps.load(catalog, "int8", threads=2)({"input": IMAGES}).values()
    assert np.array_equal(outputs, scores)


def test_a_build_spends_as_long_on_a_measurement_as_the_command() -> None:
    assert inspect.signature(ps.build).parameters["seconds_per_point"].default is None
    full, quick = chosen_measure().keywords, chosen_measure(quick=True).keywords
    assert (full["seconds_per_point"], full["batch_sizes"]) == (SECONDS_PER_POINT, BATCH_SIZES)
    assert quick["seconds_per_point"] < SECONDS_PER_POINT
    assert quick["batch_sizes"] == (1, 8, 64)
    assert chosen_measure(quick=True, batch_sizes=(2,)).keywords["batch_sizes"] == (2,)
    with pytest.raises(ValueError, match="must be positive and ascend"):
        chosen_measure(batch_sizes=(8, 1))


def test_a_build_shows_progress_on_stderr_unless_it_is_switched_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="there is no project file"):
        ps.build(tmp_path / "none.yaml", tmp_path / "catalog", progress=False)
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "catalog").exists()


def test_a_catalog_is_a_mapping_of_its_variants(catalog: ps.Catalog, small_project: Path) -> None:
    recipes = Project.load(small_project).recipes
    assert catalog.keys() == recipes.keys()
    assert next(iter(catalog)) == "dense"
    assert {name: variant.recipe for name, variant in catalog.items()} == recipes
    assert all(variant.name == name for name, variant in catalog.items())
    assert "int8" in catalog
    assert "int9" not in catalog


def test_the_repr_of_a_catalog_is_its_overview(catalog: ps.Catalog) -> None:
    lines = repr(catalog).splitlines()
    assert [line.split()[0] for line in lines[2:-1]] == list(catalog)
    assert lines[-1].startswith(" Measured quickly")
    assert "accuracy" in lines[0]
    assert "\x1b" not in repr(catalog)


def test_a_report_is_the_card_on_the_newest_hardware(catalog: ps.Catalog) -> None:
    variant = catalog["int8"]
    report = variant.report
    assert report.hardware.key == catalog.hardware
    assert variant.reports == {catalog.hardware: report}
    card = catalog.record.variants["int8"].report_cards[0]
    assert report.model_dump(exclude={"variant"}) == card.model_dump()


@pytest.mark.parametrize("name", ["dense", "int8", "sparse-2:4"])
def test_the_repr_of_a_report_is_a_table(catalog: ps.Catalog, name: str) -> None:
    report = catalog[name].report
    text = repr(report)
    assert text == str(report)
    assert text.startswith(f"{name} on {catalog.hardware}\n")
    assert f"{100 * report.accuracy.value:.2f} [" in text
    assert [line.split(",")[0].split()[-1] for line in text.splitlines() if "p50" in line] == [
        "1", "8", "64"
    ]  # fmt: skip
    assert ("reference" in text) == (name == "dense")
    assert max(map(len, text.splitlines())) <= 100


def test_the_frontier_names_variants_in_the_catalogs_order(catalog: ps.Catalog) -> None:
    frontier = catalog.frontier(64)
    assert frontier
    assert [name for name in catalog if name in frontier] == list(frontier)
    fastest = min(catalog, key=lambda name: catalog[name].report.latencies[-1].p50_s)
    assert fastest in frontier
    with pytest.raises(
        ValueError, match="nothing was measured at batch size 3; measured: 1, 8, 64"
    ):
        catalog.frontier(3)


def test_the_error_for_an_unknown_variant_names_the_known_ones(catalog: ps.Catalog) -> None:
    known = "no variant 'int9'; there are dense, activation-pruned, int8, sparse-2:4"
    with pytest.raises(KeyError, match=known):
        catalog["int9"]
    with pytest.raises(KeyError, match=known):
        ps.load(catalog, "int9")


def test_a_folder_without_a_catalog_is_an_error_of_one_line(tmp_path: Path) -> None:
    for read in (ps.open_catalog, lambda folder: ps.load(folder, "int8")):
        with pytest.raises(ValueError, match="nothing is ") as caught:
            read(tmp_path / "nothing")
        assert "\n" not in str(caught.value)


def test_a_variant_that_was_not_measured_has_no_report(catalog: ps.Catalog) -> None:
    record = catalog.record
    bare = record.variants["int8"].model_copy(update={"report_cards": ()})
    partly = ps.Catalog(
        catalog.folder, record.model_copy(update={"variants": {**record.variants, "int8": bare}})
    )
    with pytest.raises(
        ValueError, match=r"'int8' has a report card for no hardware, not for .*-t1"
    ):
        _ = partly["int8"].report
    never = ps.Catalog(catalog.folder, record.model_copy(update={"variants": {"int8": bare}}))
    assert repr(never) == "Catalog of int8: not measured yet"
    with pytest.raises(ValueError, match="run `paretoserve measure`"):
        _ = never["int8"].report
    with pytest.raises(ValueError, match="measured: none"):
        never.frontier()


@pytest.mark.parametrize("name", ["dense", "int8", "sparse-2:4"])
def test_equal_values_in_any_container_give_equal_outputs(catalog: ps.Catalog, name: str) -> None:
    model = ps.load(catalog, name)
    scores = model(IMAGES)
    assert np.array_equal(model(IMAGES.astype(np.float64)), scores)
    assert np.array_equal(model(IMAGES.tolist()), scores)
    assert np.mean(scores.argmax(axis=1) == datasets().test.labels[:5]) >= 0.6


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (IMAGES[0], r"input 'input' must have shape \[-1, 784\].*\[784\]"),
        (IMAGES[:, :9], r"must have shape \[-1, 784\].*\[5, 9\]"),
        (IMAGES[:0], "this one has 0"),
        ({"pixels": IMAGES}, "takes the inputs input; .*pixels"),
        ({}, "takes the inputs input"),
        (IMAGES.astype(str), "input 'input' must be FP32, got <U"),
        (IMAGES.astype(complex), "input 'input' must be FP32, got complex"),
    ],
)
def test_inputs_that_the_model_does_not_take_are_refused(
    catalog: ps.Catalog, inputs: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ps.load(catalog, "dense")(inputs)


def sums(tensors: Tensors) -> dict[str, NDArray[Any]]:
    """Return the sum over every input's last dimension."""
    return {"total": sum((array.sum(axis=-1) for array in tensors.values()), np.zeros(1))}


def record(*inputs: TensorSpec) -> Model:
    total = TensorSpec(name="total", datatype="FP32", shape=(-1,))
    return Model(
        name="sums", factory="a.b:c", weights_sha256="", datasets_sha256="", inputs=inputs,
        outputs=(total,), axes={spec.name: {1: "tokens"} for spec in inputs},
    )  # fmt: skip


IDS = TensorSpec(name="ids", datatype="INT64", shape=(-1, -1))
MASK = TensorSpec(name="mask", datatype="UINT8", shape=(-1, -1))


def test_a_model_of_several_inputs_takes_a_mapping() -> None:
    model = ps.Model("dense", record(IDS, MASK), sums)
    assert repr(model) == (
        "Model('dense', ids: INT64 [-1, -1], mask: UINT8 [-1, -1] -> total: FP32 [-1])"
    )
    assert model({"ids": [[3, 4]], "mask": [[True, False]]})["total"].tolist() == [8]
    with pytest.raises(ValueError, match="inputs ids, mask and the outputs total: pass a mapping"):
        model([[3, 4]])
    with pytest.raises(ValueError, match="size of 'tokens' must be"):
        model({"ids": [[3, 4]], "mask": [[1]]})


@pytest.mark.parametrize(
    ("values", "is_accepted"),
    [([[0, 255]], True), ([[1.0]], True), ([[256]], False), ([[-1]], False), ([[0.5]], False),
     ([[float("nan")]], False)],
)  # fmt: skip
def test_values_are_converted_only_if_they_stay_the_same(values: Any, is_accepted: bool) -> None:
    model = ps.Model("dense", record(MASK), sums)
    if is_accepted:
        assert model(values).tolist() == np.sum(values, axis=1).tolist()
    else:
        with pytest.raises(ValueError, match=r"'mask' must be UINT8, .* that UINT8 cannot hold"):
            model(values)


def test_text_is_passed_on_as_bytes() -> None:
    received = []

    def run(tensors: Tensors) -> dict[str, NDArray[Any]]:
        received.append(tensors["text"])
        return {"total": np.zeros(1, np.float32)}

    model = ps.Model("dense", record(TensorSpec(name="text", datatype="BYTES", shape=(-1,))), run)
    model(["héllo", "you"])
    model(np.array([b"a"], object))
    assert [array.tolist() for array in received] == [["héllo".encode(), b"you"], [b"a"]]


def test_every_package_states_that_it_is_typed() -> None:
    for name in ("paretoserve", "serving", "variants", "loadtests"):
        assert (Path(__file__).parents[2] / name / "py.typed").is_file()


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "paretoserve", "--version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == f"python -m paretoserve, version {ps.__version__}"
