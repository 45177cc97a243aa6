"""The Dockerfile, read as far as the tests need it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]


class Instruction(NamedTuple):
    """One line of a Dockerfile, continuations joined; stages count from 0 and -1 is before them."""

    stage: int
    keyword: str
    text: str


def instructions() -> list[Instruction]:
    """Return the instructions of the Dockerfile in order."""
    lines = [
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")
    ]
    stage = -1
    found = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            keyword, text = line.split(maxsplit=1)
            stage += keyword == "FROM"
            found.append(Instruction(stage, keyword, text))
    return found


def final(keyword: str) -> list[str]:
    """Return the texts of one kind of instruction in the last stage: what the image is made of."""
    found = instructions()
    return [i.text for i in found if i.stage == found[-1].stage and i.keyword == keyword]


def environment() -> dict[str, str]:
    """Return the environment that the image gives to what runs in it."""
    pairs = [pair for text in final("ENV") for pair in shlex.split(text)]
    return dict(pair.split("=", 1) for pair in pairs)
