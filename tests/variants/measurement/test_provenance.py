from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from variants.measurement.provenance import commit, load_average, provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A Name", "-c", "user.email=name@example.org")
    command = ("git", *identity, *arguments)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init")
    (tmp_path / "recipes.yaml").write_text("one")
    git(tmp_path, "add", "recipes.yaml")
    git(tmp_path, "commit", "-m", "One")
    return tmp_path


def test_the_commit_is_that_of_the_surrounding_repository(repository: Path) -> None:
    (repository / "subfolder").mkdir()
    head = git(repository, "rev-parse", "HEAD")
    git(repository, "tag", "-a", "v1", "-m", "a tag does not replace the commit")
    assert commit(repository / "subfolder") == head
    (repository / "catalog.json").write_text("untracked files are ignored")
    assert commit(repository) == head


def test_a_changed_file_marks_the_commit_as_dirty(repository: Path) -> None:
    (repository / "recipes.yaml").write_text("two")
    assert commit(repository) == f"{git(repository, 'rev-parse', 'HEAD')}-dirty"


def test_without_a_repository_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert commit(tmp_path) is None


def test_provenance_has_the_load_average_and_the_seed(tmp_path: Path) -> None:
    load = load_average()
    assert load is None or load >= 0
    assert provenance(tmp_path, seed=3).seed == 3
