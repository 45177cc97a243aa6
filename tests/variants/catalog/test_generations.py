from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.variants.catalog.cards import card
from variants.catalog import generations
from variants.catalog.artifact import DRAFTS, RECORD, recover, remove, save, write_record
from variants.catalog.catalog import Variant

FILES = {"model.onnx": b"the graph", "weights.safetensors": b"the weights"}
INT8 = Variant(name="int8", recipe=(), runner="onnx", files=())


def _draft(catalog: Path, variant: Variant, files: dict[str, bytes]) -> Path:
    """Write a complete draft as a builder does; return its folder."""
    drafts = catalog / DRAFTS / "build"
    save(drafts, variant, files)
    return drafts / variant.name


def _inode(path: Path) -> int:
    return path.stat().st_ino


def test_the_digest_depends_on_names_and_contents_but_not_on_order(tmp_path: Path) -> None:
    saved = save(tmp_path, INT8, FILES)
    backwards = saved.model_copy(update={"files": tuple(reversed(saved.files))})
    assert generations.digest(backwards) == generations.digest(saved)
    digests = {
        generations.digest(save(tmp_path, INT8, files))
        for files in (FILES, {"a": b"the graph"}, {"model.onnx": b"other"}, {})
    }
    assert len(digests) == 4


def test_an_adopted_generation_survives_a_rebuild_and_the_removal_of_the_variant(
    tmp_path: Path,
) -> None:
    saved = save(tmp_path, INT8, FILES)
    assert generations.adopt(tmp_path, "int8", 1) == generations.digest(saved)
    folder = generations.folder(tmp_path, "int8", 1)
    assert _inode(folder / "model.onnx") == _inode(tmp_path / "int8" / "model.onnx")
    save(tmp_path, INT8, {"model.onnx": b"rebuilt"})
    remove(tmp_path, "int8")
    recover(tmp_path)
    assert generations.verify(tmp_path, "int8", 1) == saved
    assert (folder / "model.onnx").read_bytes() == b"the graph"
    assert list((tmp_path / DRAFTS).iterdir()) == []


def test_readers_of_the_catalog_skip_generations(tmp_path: Path) -> None:
    save(tmp_path, INT8, FILES)
    generations.adopt(tmp_path, "int8", 1)
    assert list(tmp_path.glob(f"*/{RECORD}")) == [tmp_path / "int8" / RECORD]
    assert generations.on_disk(tmp_path) == {("int8", 1)}


def test_adopting_again_takes_new_report_cards_and_no_new_files(tmp_path: Path) -> None:
    saved = save(tmp_path, INT8, FILES)
    generations.adopt(tmp_path, "int8", 1)
    path = generations.folder(tmp_path, "int8", 1) / "model.onnx"
    before = _inode(path)
    measured = saved.model_copy(update={"report_cards": (card(0.9),)})
    write_record(tmp_path / "int8" / RECORD, measured)
    assert generations.load(tmp_path, "int8", 1) == saved
    generations.adopt(tmp_path, "int8", 1)
    assert generations.load(tmp_path, "int8", 1) == measured
    assert _inode(path) == before


@pytest.mark.parametrize("damage", [b"the grapH", b"short", None], ids=["hash", "size", "missing"])
def test_adopting_again_repairs_a_damaged_generation(tmp_path: Path, damage: bytes | None) -> None:
    saved = save(tmp_path, INT8, FILES)
    generations.adopt(tmp_path, "int8", 1)
    path = generations.folder(tmp_path, "int8", 1) / "model.onnx"
    path.unlink()  # not written in place, since it is a link to the variant's file
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(ValueError, match=r"int8/1/model\.onnx (is damaged|cannot be read)"):
        generations.verify(tmp_path, "int8", 1)
    generations.adopt(tmp_path, "int8", 1)
    assert generations.verify(tmp_path, "int8", 1) == saved


def test_gateways_that_start_at_the_same_time_may_adopt_the_same_variant(tmp_path: Path) -> None:
    saved = save(tmp_path, INT8, FILES)
    with ThreadPoolExecutor(8) as pool:
        for number in range(1, 6):
            digests = pool.map(lambda n: generations.adopt(tmp_path, "int8", n), [number] * 8)
            assert set(digests) == {generations.digest(saved)}
            assert generations.verify(tmp_path, "int8", number) == saved
    assert list((tmp_path / DRAFTS).iterdir()) == []


def test_a_damaged_or_missing_variant_is_not_adopted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no variant 'int8'"):
        generations.adopt(tmp_path, "int8", 1)
    save(tmp_path, INT8, FILES)
    (tmp_path / "int8" / "model.onnx").write_bytes(b"the grapH")
    with pytest.raises(ValueError, match=r"model\.onnx is damaged"):
        generations.adopt(tmp_path, "int8", 1)
    (tmp_path / "int8" / "model.onnx").unlink()
    with pytest.raises(ValueError, match=r"int8/model\.onnx cannot be read"):
        generations.adopt(tmp_path, "int8", 1)
    assert generations.on_disk(tmp_path) == set()
    assert list((tmp_path / DRAFTS).iterdir()) == []


def test_loading_names_what_is_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="generation 2 of int8 is not on disk"):
        generations.load(tmp_path, "int8", 2)
    generations.publish_draft(_draft(tmp_path, INT8, FILES), tmp_path, "int8", 2)
    folder = generations.folder(tmp_path, "int8", 2)
    (folder / "model.onnx").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"int8/2/model\.onnx is damaged: it has 3 bytes, not 9"):
        generations.load(tmp_path, "int8", 2)
    (folder / "model.onnx").unlink()
    with pytest.raises(ValueError, match=r"int8/2/model\.onnx cannot be read: No such file"):
        generations.load(tmp_path, "int8", 2)
    (folder / RECORD).write_text("{}")
    with pytest.raises(ValueError, match=r"int8/2/variant\.json: name: is required"):
        generations.load(tmp_path, "int8", 2)
    (folder / RECORD).unlink()
    with pytest.raises(ValueError, match=r"int8/2/variant\.json cannot be read: No such file"):
        generations.load(tmp_path, "int8", 2)


def test_a_draft_replaces_what_a_killed_builder_left_under_its_number(tmp_path: Path) -> None:
    first = generations.publish_draft(_draft(tmp_path, INT8, FILES), tmp_path, "int8", 3)
    other = {"model.onnx": b"other"}
    second = generations.publish_draft(_draft(tmp_path, INT8, other), tmp_path, "int8", 3)
    assert first != second == generations.digest(generations.verify(tmp_path, "int8", 3))
    assert {path.name for path in generations.folder(tmp_path, "int8", 3).iterdir()} == {
        RECORD,
        "model.onnx",
    }


def test_the_draft_of_another_variant_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds the variant 'int8', not 'dense'"):
        generations.publish_draft(_draft(tmp_path, INT8, FILES), tmp_path, "dense", 1)
    assert generations.on_disk(tmp_path) == set()


def test_a_deleted_generation_leaves_no_files_and_the_others_stay(tmp_path: Path) -> None:
    save(tmp_path, INT8, FILES)
    for number in (1, 2):
        generations.adopt(tmp_path, "int8", number)
    generations.delete(tmp_path, "int8", 1)
    generations.delete(tmp_path, "int8", 1)
    assert generations.on_disk(tmp_path) == {("int8", 2)}
    generations.delete(tmp_path, "int8", 2)
    assert generations.on_disk(tmp_path) == set()
    assert not (tmp_path / generations.GENERATIONS / "int8").exists()
    assert list((tmp_path / DRAFTS).iterdir()) == []
