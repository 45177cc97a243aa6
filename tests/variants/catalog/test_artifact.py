from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from variants.catalog import artifact
from variants.catalog.artifact import (
    DRAFTS,
    RECORD,
    draft_folder,
    read,
    read_all,
    recover,
    remove,
    save,
    write_file,
)
from variants.catalog.catalog import Variant
from variants.catalog.record import read_record

FILES = {"model.onnx": b"the graph", "weights.safetensors": b"the weights"}
VARIANT = Variant(name="dense", recipe=(), runner="onnx", files=())


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_saved_files_are_read_back(tmp_path: Path) -> None:
    saved = save(tmp_path, VARIANT, FILES)
    assert read_record(Variant, tmp_path / "dense" / RECORD) == saved
    assert read_all(tmp_path / "dense", saved) == FILES
    assert [(file.name, file.size_bytes) for file in saved.files] == [
        ("model.onnx", 9),
        ("weights.safetensors", 11),
    ]


def test_saving_again_replaces_the_whole_folder(tmp_path: Path) -> None:
    save(tmp_path, VARIANT, FILES)
    save(tmp_path, VARIANT, {"model.onnx": b"another"})
    assert _names(tmp_path) == {f"dense/{RECORD}", "dense/model.onnx"}
    assert (tmp_path / "dense" / "model.onnx").read_bytes() == b"another"


@pytest.mark.parametrize("position", [0, 4, 8])
def test_a_flipped_byte_raises_an_error_with_the_file_name(tmp_path: Path, position: int) -> None:
    saved = save(tmp_path, VARIANT, FILES)
    path = tmp_path / "dense" / "model.onnx"
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"dense/model\.onnx is damaged"):
        read_all(tmp_path / "dense", saved)
    assert read(tmp_path / "dense", saved.files[1]) == b"the weights"


def test_a_missing_file_raises_an_error_with_its_name(tmp_path: Path) -> None:
    saved = save(tmp_path, VARIANT, FILES)
    (tmp_path / "dense" / "model.onnx").unlink()
    with pytest.raises(ValueError, match=r"dense/model\.onnx cannot be read: No such file"):
        read_all(tmp_path / "dense", saved)


@pytest.mark.parametrize("existing", [{}, {"model.onnx": b"before"}], ids=["new", "replaced"])
def test_a_failed_save_leaves_the_catalog_unchanged(
    tmp_path: Path, existing: dict[str, bytes]
) -> None:
    if existing:
        save(tmp_path, VARIANT, existing)
    before = {name: (tmp_path / name).read_bytes() for name in _names(tmp_path)}
    # The second file cannot be written, so saving fails after the first is on disk.
    with pytest.raises(OSError, match="File name too long"):
        save(tmp_path, VARIANT, {"model.onnx": b"after", 300 * "n": b""})
    assert {name: (tmp_path / name).read_bytes() for name in _names(tmp_path)} == before
    assert list((tmp_path / DRAFTS).iterdir()) == []


def test_readers_of_the_catalog_skip_drafts(tmp_path: Path) -> None:
    draft = tmp_path / DRAFTS / "dense-abc"
    draft.mkdir(parents=True)
    (draft / RECORD).write_text("{}")
    assert list(tmp_path.glob(f"*/{RECORD}")) == []


def test_recovery_restores_the_backup_of_a_killed_replacement(tmp_path: Path) -> None:
    saved = save(tmp_path, VARIANT, FILES)
    backup = tmp_path / DRAFTS / "replaced-dense"
    (tmp_path / "dense").rename(backup)  # killed here, between the two renames
    (tmp_path / DRAFTS / "dense-xyz").mkdir()
    recover(tmp_path)
    assert read_all(tmp_path / "dense", saved) == FILES
    assert list((tmp_path / DRAFTS).iterdir()) == []


def test_recovery_deletes_the_backup_of_a_completed_replacement(tmp_path: Path) -> None:
    save(tmp_path, VARIANT, {"model.onnx": b"new"})
    backup = tmp_path / DRAFTS / "replaced-dense"
    backup.mkdir()
    (backup / "model.onnx").write_bytes(b"old")
    recover(tmp_path)
    assert (tmp_path / "dense" / "model.onnx").read_bytes() == b"new"
    assert _names(tmp_path) == {f"dense/{RECORD}", "dense/model.onnx"}


def test_a_removed_variant_leaves_no_files(tmp_path: Path) -> None:
    save(tmp_path, VARIANT, FILES)
    remove(tmp_path, "dense")
    assert _names(tmp_path) == set()
    assert not (tmp_path / "dense").exists()


def test_files_are_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "catalog.json"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    with pytest.raises(TypeError):
        write_file(path, "not bytes")  # type: ignore[arg-type]  # fails while writing
    assert path.read_bytes() == b"new"
    assert _names(tmp_path) == {"catalog.json"}


def test_a_record_is_written_as_readable_json(tmp_path: Path) -> None:
    artifact.write_record(tmp_path / RECORD, VARIANT)
    text = (tmp_path / RECORD).read_text()
    assert json.loads(text)["name"] == "dense"
    assert text.count("\n") > 5


def test_recovery_deletes_drafts_of_killed_writers_only(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from variants.catalog.artifact import draft_folder\n"
        "with draft_folder(Path(sys.argv[1]), prefix='b-') as folder:\n"
        "    print(folder, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with writer:
        assert writer.stdout is not None
        draft = Path(writer.stdout.readline().strip())
        recover(tmp_path)
        assert draft.is_dir()
        writer.kill()
        writer.wait()
        assert draft.is_dir()
        recover(tmp_path)
        assert not draft.exists()


def test_a_draft_that_is_just_created_is_not_deleted(tmp_path: Path) -> None:
    def write(number: int) -> bool:
        with draft_folder(tmp_path, prefix=f"{number}-") as folder:
            (folder / "model.onnx").write_bytes(b"a draft")
            artifact.discard_drafts(tmp_path)
            return (folder / "model.onnx").read_bytes() == b"a draft"

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write, range(200)))
    assert list((tmp_path / DRAFTS).iterdir()) == []
