from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from variants.runtime.gpu.algorithms import AlgorithmCache, AlgorithmKey

KEY = AlgorithmKey("NVIDIA H200", "cuSPARSELt 702", "bfloat16", 2048, 784, 64)
OTHERS = [
    KEY._replace(gpu="NVIDIA A10"),
    KEY._replace(library="cuSPARSELt 602"),
    KEY._replace(arithmetic="int8"),
    KEY._replace(out=1024),
    KEY._replace(columns=800),
    KEY._replace(rows=8),
]


def never() -> int:
    raise AssertionError("there should be no search")


def test_an_algorithm_is_searched_once_and_found_by_later_processes(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "algorithms.json"
    cache = AlgorithmCache(file)
    assert cache.find(KEY, lambda: 7) == 7
    assert cache.find(KEY, never) == 7
    assert AlgorithmCache(file).find(KEY, never) == 7
    assert [each.name for each in file.parent.iterdir()] == [file.name], "no draft is left"


@pytest.mark.parametrize("other", OTHERS)
def test_the_key_distinguishes_everything_that_the_algorithm_depends_on(
    other: AlgorithmKey, tmp_path: Path
) -> None:
    cache = AlgorithmCache(tmp_path / "algorithms.json")
    cache.find(KEY, lambda: 7)
    assert cache.find(other, lambda: 3) == 3
    assert cache.find(KEY, never) == 7


def test_processes_that_write_in_turn_keep_the_entries_of_each_other(tmp_path: Path) -> None:
    file = tmp_path / "algorithms.json"
    one, two = AlgorithmCache(file), AlgorithmCache(file)
    one.find(KEY, lambda: 1)
    two.find(OTHERS[0], lambda: 2)
    assert json.loads(file.read_text()) == {KEY.text: 1, OTHERS[0].text: 2}


@pytest.mark.parametrize("content", ["", "[1]", "{not json", "\x00"])
def test_a_damaged_file_costs_a_search(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "algorithms.json"
    file.write_text(content)
    assert AlgorithmCache(file).find(KEY, lambda: 5) == 5
    assert "is ignored" in caplog.text
    assert json.loads(file.read_text()) == {KEY.text: 5}


def test_entries_that_are_no_algorithm_are_ignored(tmp_path: Path) -> None:
    file = tmp_path / "algorithms.json"
    file.write_text(json.dumps({KEY.text: "7", OTHERS[0].text: -1, OTHERS[1].text: True}))
    cache = AlgorithmCache(file)
    assert [cache.find(key, lambda: 5) for key in (KEY, OTHERS[0], OTHERS[1])] == [5, 5, 5]


def test_a_file_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").write_text("")
    with caplog.at_level(logging.WARNING):
        cache = AlgorithmCache(tmp_path / "taken" / "algorithms.json")
        assert cache.find(KEY, lambda: 5) == 5
    assert "are not kept" in caplog.text
    assert cache.find(KEY, never) == 5
