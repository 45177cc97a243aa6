"""Object storage: copies of generations, from which nodes without the catalog restore them.

    <url>/catalog.json                  the model
    <url>/<sha256[:2]>/<sha256>         a file of any generation, stored once
    <url>/<variant>/<number>.json       variant.json of a generation, written after its files

The URL is one of fsspec: `s3://bucket/folder`, `gs://bucket/folder`, `file:///folder`. Every file
is verified against the sha256 in the record before it is used. This module does not import torch.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from variants.catalog import artifact, generations
from variants.catalog.catalog import File, Model, Variant
from variants.catalog.external_data import refuse_external_data
from variants.catalog.recipe import DENSE
from variants.catalog.record import R
from variants.catalog.words import first_problem

MODEL: Final = "catalog.json"
_CAUSE_CHARACTERS: Final = 300
"""Most characters of the message of a storage library."""


class Storage:
    """The copies under one URL. All methods block, and raise `ValueError` with the cause.

    Keep one URL for one service: generations are stored by name and number.
    """

    def __init__(self, url: str) -> None:
        """Raises `ValueError` if the library for this kind of URL is missing."""
        self._url = url.rstrip("/")
        fsspec = import_module("fsspec")  # takes 0.1 s, and few services need it
        # Object storage has no folders to make.
        options = {"auto_mkdir": True} if url.startswith(("file:", "local:")) else {}
        try:
            self._fs, root = fsspec.core.url_to_fs(self._url, **options)
        except Exception as error:  # the libraries raise errors of their own
            raise ValueError(
                f"{self._url} cannot be opened: {_in_one_line(error)}; s3:// and gs:// need the "
                "extra `object-storage`: pip install 'paretoserve[object-storage]'"
            ) from None
        self._root = root.rstrip("/")

    def upload(self, catalog: Path, name: str, number: int) -> None:
        """Copy the model and a generation to the storage; files that are there are skipped."""
        folder = generations.folder(catalog, name, number)
        variant = generations.load(catalog, name, number)
        self._write(MODEL, (catalog / MODEL).read_bytes())
        self._upload_files(folder, variant)
        self._write(_record(name, number), (folder / artifact.RECORD).read_bytes())
        # A file that was there may have been deleted with another generation meanwhile.
        self._upload_files(folder, variant)

    def load(self, catalog: Path, name: str, number: int) -> Variant:
        """Return the record of a generation: the local one if its files are there, else the copy.

        Raises `ValueError` if there is neither.
        """
        try:
            return generations.load(catalog, name, number)
        except ValueError as missing:
            with _after(missing):
                return self.record(name, number)

    def record(self, name: str, number: int) -> Variant:
        """Return the record of a generation in the storage."""
        path = _record(name, number)
        variant = self._parse(Variant, path)
        if variant.name != name:
            raise ValueError(
                f"{self._at(path)} is not a record of {name}: it has the name {variant.name!r}"
            )
        return variant

    def restore(self, catalog: Path, name: str, number: int) -> None:
        """Restore the model, and a generation that is missing on this node or damaged.

        Only one process of the node restores a generation; the others wait. Raises `ValueError`
        if the storage has no undamaged copy.
        """
        with _locked(catalog, f"{name}-{number}"):
            self._restore_model(catalog)
            try:
                generations.verify(catalog, name, number)
            except ValueError as missing:
                with _after(missing), artifact.draft_folder(catalog, prefix=f"{name}-") as drafts:
                    self._download(name, number, drafts / name)
                    generations.publish_draft(drafts / name, catalog, name, number)

    def restore_dense(self, catalog: Path, number: int) -> None:
        """Restore the model, and `catalog/dense/` if it is missing on this node or damaged.

        `number` is the generation of dense to take.
        """
        folder = catalog / DENSE
        with _locked(catalog, DENSE):
            self._restore_model(catalog)
            try:
                artifact.read_all(folder, generations.source(catalog, DENSE))
            except ValueError:
                with artifact.draft_folder(catalog, prefix=f"{DENSE}-") as drafts:
                    self._download(DENSE, number, drafts / DENSE)
                    artifact.move(drafts / DENSE, folder)

    def delete(self, deleted: Collection[tuple[str, int]]) -> None:
        """Delete the copies of generations, but no file that another generation has."""
        with self._in_words("listed", ""):
            self._fs.invalidate_cache()
            paths = [Path(path) for path in self._fs.find(self._root)]
        found = {
            (path.parent.name, int(path.stem))
            for path in paths
            if path.suffix == ".json" and path.stem.isdecimal()
        }
        outdated = found.intersection(deleted)
        if not outdated:
            return
        kept = {file.sha256 for key in found - outdated for file in self.record(*key).files}
        for name, number in sorted(outdated):
            for file in self.record(name, number).files:
                if file.sha256 not in kept:
                    self._delete(_object(file))
            self._delete(_record(name, number))  # last, so that an interruption is repeated

    def _upload_files(self, folder: Path, variant: Variant) -> None:
        for file in variant.files:
            path = _object(file)
            if self._size(path) != file.size_bytes:
                self._replace(path, artifact.read(folder, file))

    def _restore_model(self, catalog: Path) -> None:
        if not (catalog / MODEL).is_file():
            artifact.write_record(catalog / MODEL, self._parse(Model, MODEL))

    def _download(self, name: str, number: int, draft: Path) -> None:
        """Write a complete draft of a generation; raise `ValueError` if a file is damaged."""
        variant = self.record(name, number)
        draft.mkdir()
        for file in variant.files:
            path = _object(file)
            with self._in_words("read", path):
                self._fs.get_file(self._key(path), str(draft / file.name))
            if _sha256(draft / file.name) != file.sha256:
                raise ValueError(
                    f"{self._at(path)} is damaged: its sha256 is not its name; delete it, and "
                    "start the service again where the catalog is"
                )
            refuse_external_data(draft / file.name, (draft / file.name).read_bytes())
            artifact.sync(draft / file.name)
        artifact.write_record(draft / artifact.RECORD, variant)

    def _parse(self, kind: type[R], path: str) -> R:
        try:
            return kind.model_validate_json(self._read(path))
        except ValidationError as error:
            raise ValueError(f"{self._at(path)}: {first_problem(error)}") from None

    def _read(self, path: str) -> bytes:
        with self._in_words("read", path):
            return bytes(self._fs.cat_file(self._key(path)))

    def _write(self, path: str, content: bytes) -> None:
        """Write a file unless it has this content."""
        if self._size(path) != len(content) or self._read(path) != content:
            self._replace(path, content)

    def _replace(self, path: str, content: bytes) -> None:
        with self._in_words("written", path):
            self._fs.pipe_file(self._key(path), content)

    def _delete(self, path: str) -> None:
        if self._size(path) is not None:
            with self._in_words("deleted", path):
                self._fs.rm_file(self._key(path))

    def _size(self, path: str) -> int | None:
        """Return the size of a file in bytes, None if it does not exist."""
        with self._in_words("read", path):
            self._fs.invalidate_cache()
            try:
                return int(self._fs.info(self._key(path))["size"])
            except FileNotFoundError:
                return None

    def _key(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _at(self, path: str) -> str:
        return f"{self._url}/{path}"

    @contextmanager
    def _in_words(self, done: str, path: str) -> Iterator[None]:
        """Turn the errors of the storage's library into a `ValueError` in one sentence."""
        try:
            yield
        except FileNotFoundError:
            raise ValueError(f"{self._at(path)} cannot be {done}: it does not exist") from None
        except Exception as error:  # each library has errors of its own
            raise ValueError(f"{self._at(path)} cannot be {done}: {_in_one_line(error)}") from None


def open_storage(url: str | None) -> Storage | None:
    """Return the storage of the settings, None without one; raises like `Storage`."""
    return None if url is None else Storage(url)


def load(storage: Storage | None, catalog: Path, name: str, number: int) -> Variant:
    """Return the record of a generation on this node, or in the storage if there is one.

    Raises `ValueError` if it is in neither.
    """
    if storage is None:
        return generations.load(catalog, name, number)
    return storage.load(catalog, name, number)


def _object(file: File) -> str:
    return f"{file.sha256[:2]}/{file.sha256}"


def _record(name: str, number: int) -> str:
    return f"{name}/{number}.json"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:_CAUSE_CHARACTERS]
    return text or type(error).__name__


@contextmanager
def _after(missing: ValueError) -> Iterator[None]:
    """Let a `ValueError` state first why the storage was needed."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{missing}; {error}") from None


@contextmanager
def _locked(catalog: Path, name: str) -> Iterator[None]:
    """Exclude other processes of the node that restore the same."""
    folder = catalog / generations.GENERATIONS
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
