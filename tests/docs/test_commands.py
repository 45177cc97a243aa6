"""Every command in a shell block of the documentation exists, with the options that it is given."""

from __future__ import annotations

import re
from importlib.util import find_spec

import click
import pytest

from paretoserve.main import cli
from tests.docs.pages import ROOT, blocks

COMMANDS = [
    pytest.param(words, id=f"{block.id} {' '.join(words[:3])}")
    for block in blocks("sh", "")
    for words in block.commands()
    if words[0] in ("make", "paretoserve", "python")
]


@pytest.mark.parametrize("words", COMMANDS)
def test_the_command_exists(words: list[str]) -> None:
    match words:
        case ["make", *targets]:
            known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert {*targets} <= {*known}
        case ["paretoserve", verb, *arguments]:
            parse(cli.commands[verb], arguments)
        case ["python", "-m", module, *_]:
            assert find_spec(module) is not None
        case _:
            pytest.fail("neither a command of this project nor one of its modules")


def parse(command: click.Command, arguments: list[str]) -> None:
    """Raise `click.UsageError` for an option that the command does not have."""
    if isinstance(command, click.Group):
        parse(command.commands[arguments[0]], arguments[1:])
        return
    command.make_parser(click.Context(command)).parse_args(list(arguments))


def test_the_documentation_has_commands() -> None:
    assert len(COMMANDS) > 10
