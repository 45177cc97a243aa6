"""What a builder process is asked for, and the lines that it answers.

    BuildRequest, one line of JSON ─▶ `python -m variants.build.generation` ─▶ one line per event

Plain data between a service, which does not import torch, and the process that builds for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from variants.catalog.device import Device
from variants.catalog.recipe import Recipe, VariantName
from variants.catalog.record import Record

BuildStage: TypeAlias = Literal["techniques", "recovery", "evaluation", "profiling"]
"""The stages of a build, in order."""


class BuildRequest(Record):
    """One generation to build. Paths are absolute."""

    project: Path
    catalog: Path
    name: VariantName
    number: int = Field(ge=1)
    recipe: Recipe
    threads: int = Field(default=1, ge=1)
    """Compute threads of a replica, with which the variant is measured."""
    device: Device = "cpu"
    """The device of a replica, on which the variant is measured."""


class BuildProgress(Record):
    """How far a build is."""

    stage: BuildStage
    share: float = Field(ge=0, le=1)
    """Share of the stage that is done. It never falls within a stage."""


class BuildLog(Record):
    """A line for readers."""

    log: str


class BuildResult(Record):
    """The last line of a build that succeeded: the generation is on disk."""

    built: str
    """Digest of the generation; see `variants.catalog.generations.digest`."""


class BuildError(Record):
    """The last line of a build that failed."""

    error: str
    """The cause in one sentence."""


BuildEvent: TypeAlias = BuildProgress | BuildLog | BuildResult | BuildError

_EVENT: TypeAdapter[BuildEvent] = TypeAdapter(
    Annotated[BuildEvent, Field(union_mode="left_to_right")]
)


def read_event(line: bytes) -> BuildEvent:
    """Return the event that a line of a builder's output states.

    Raises `ValueError` for a line that is none.
    """
    return _EVENT.validate_json(line)
