"""What the pages mention exists, and their lines have the agreed width."""

from __future__ import annotations

import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

from tests.docs.pages import PAGES, ROOT

PACKAGES = "paretoserve|serving|variants|loadtests|examples|tests|k8s|docs|scripts"
MODULES = "paretoserve|serving|variants|loadtests|examples"
EXTENSIONS = {"json", "md", "py", "toml", "yaml"}
WIDTH = 100


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_in_backticks_exists(page: Path) -> None:
    named = re.findall(rf"`((?:{PACKAGES})/[\w./-]*)[^`<]*`", page.read_text())
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing


def test_every_module_and_function_in_backticks_exists() -> None:
    for page in PAGES:
        if page.parent.name == "decisions":  # they also mention former names
            continue
        for name in re.findall(rf"`((?:{MODULES})(?:\.\w+)+)(?:\(.*?\))?`", page.read_text()):
            if name.rpartition(".")[2] not in EXTENSIONS:
                resolve_name(name)  # raises ImportError or AttributeError


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", without_code(page.read_text()))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_is_wrapped(page: Path) -> None:
    lines = without_code(page.read_text()).splitlines()
    assert not [line for line in lines if len(line) > WIDTH and not line.startswith("|")]


def test_the_readme_fits_one_screen() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 80
