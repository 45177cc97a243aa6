"""A minimal parser of the Dockerfile, for the tests."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]


class Instruction(NamedTuple):
    """One instruction, with continuation lines joined.

    Stages are numbered from 0; -1 is before the first stage.
    """

    stage: int
    keyword: str
    text: str


def instructions() -> list[Instruction]:
    """Return the instructions of the Dockerfile in order."""
    lines = [
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")
    ]
    stage = -1
    parsed = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            keyword, text = line.split(maxsplit=1)
            stage += keyword == "FROM"
            parsed.append(Instruction(stage, keyword, text))
    return parsed


def final(keyword: str) -> list[str]:
    """Return the texts of the instructions of a keyword in the last stage, which is the image."""
    parsed = instructions()
    return [i.text for i in parsed if i.stage == parsed[-1].stage and i.keyword == keyword]


def environment() -> dict[str, str]:
    """Return the environment variables that the image sets."""
    pairs = [pair for text in final("ENV") for pair in shlex.split(text)]
    return dict(pair.split("=", 1) for pair in pairs)
