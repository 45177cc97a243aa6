from __future__ import annotations

import ctypes
import shutil
import sysconfig
from pathlib import Path

import pytest

from tests.variants.runtime.kernels.conftest import using
from variants.runtime.kernels import library


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Look for the library in an empty folder."""
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    library._load.cache_clear()
    monkeypatch.setattr(library, "_load", library._load.__wrapped__)
    return tmp_path


def test_a_missing_library_has_a_reason(folder: Path) -> None:
    assert not library.is_compiled()
    assert "install a C++ compiler" in library.missing_reason()
    assert library.instruction_set() == "portable"
    with pytest.raises(RuntimeError, match="the kernels are not compiled"):
        library.loaded()


def test_a_damaged_library_has_a_reason(folder: Path) -> None:
    (folder / "_kernels.so").write_bytes(b"no library")
    assert "the compiled kernels cannot be loaded" in library.missing_reason()


def test_a_library_of_another_version_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = sorted(Path(library.__spec__.origin or "").parent.glob("_kernels*.so"))
    if not found:
        pytest.skip("the kernels are not compiled")
    shutil.copy(found[0], folder)
    assert library.is_compiled()
    monkeypatch.setattr(library, "VERSION", 0)
    assert "have version 3 instead of 0" in library.missing_reason()


def test_the_library_of_this_interpreter_comes_first_and_a_damaged_one_is_skipped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def fail(path: str) -> None:
        opened.append(Path(path).name)
        raise OSError(f"{Path(path).name} is damaged")

    own = f"_kernels{sysconfig.get_config_var('EXT_SUFFIX')}"
    names = ["_kernels.a.so", own, "_kernels.z.so"]
    for name in names:
        (folder / name).write_bytes(b"")
    monkeypatch.setattr(ctypes, "CDLL", fail)
    assert f"{own} is damaged" in library.missing_reason()
    assert opened == [own, "_kernels.a.so", "_kernels.z.so"]


def test_the_instruction_set_is_the_best_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.VARIABLE, raising=False)
    assert library.instruction_set() == library.supported_instruction_sets()[-1]


def test_a_lower_instruction_set_can_be_forced() -> None:
    with using("portable"):
        assert library.instruction_set() == "portable"


def test_an_empty_variable_forces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, "")
    assert library.instruction_set() == library.supported_instruction_sets()[-1]


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, "sse9")
    with pytest.raises(ValueError, match=r"must be one of portable.* here, got 'sse9'"):
        library.instruction_set()
