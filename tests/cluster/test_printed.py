"""The addresses and commands that `paretoserve up` prints work when they are pasted."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path

import pytest

from serving.gateway.settings import Settings
from tests.serving.builders import MODEL
from variants.catalog.sample_request import read_inputs, sample_path, zeros

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # warnings of ray
    from serving.cluster.up import reachable, request_command


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "127.0.0.1:80"),
        ("0.0.0.0", "127.0.0.1:80"),
        ("", "127.0.0.1:80"),
        ("::", "[::1]:80"),
        ("0:0:0:0:0:0:0:0", "[::1]:80"),
        ("fd00::5", "[fd00::5]:80"),
        ("host.example", "host.example:80"),
    ],
)
def test_an_address_to_listen_on_is_printed_as_one_to_connect_to(host: str, expected: str) -> None:
    assert reachable(host, 80) == expected


@pytest.mark.parametrize("name", ["plain", "a b", "it's", 'a"b', "$HOME"])
def test_the_printed_request_has_quoted_words_and_a_file_that_exists(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    words = shlex.split(request_command(Settings(catalog=folder), MODEL, "http://[::1]:80"))
    assert words[:3] == ["curl", "-s", "-g"]
    assert words[3] == f"http://[::1]:80/v2/models/{MODEL.name}/infer"
    assert words[-2:] == ["-d", f"@{sample_path(folder)}"]
    assert sample_path(folder).is_file()
    assert read_inputs(folder, MODEL) == zeros(MODEL)
