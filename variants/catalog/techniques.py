"""The compression techniques as data: their parameters, and which may follow which.

    variants.compression.techniques ─▶ techniques.json ─▶ a service, which does not import torch

`python -m variants.compression.techniques` writes the file. A test checks that it is up to date.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from pydantic import TypeAdapter

from variants.catalog.record import Record

FILE: Final = Path(__file__).with_name("techniques.json")

StageName: TypeAlias = Literal["free", "masked", "graph"]
"""What a model is after a step: a network, one with zeros to keep, or an ONNX graph."""
_ORDER: Final[Mapping[StageName, int]] = {"free": 0, "masked": 1, "graph": 2}

_STAGE_ERRORS: Final[Mapping[StageName, str]] = {
    "masked": "masked weights must stay zero from there on, and this step would change their "
    "pattern",
    "graph": "the model is an ONNX graph from there on, and changes to the network would not "
    "reach it; place this step before the one that makes the graph",
}


class TechniqueInfo(Record):
    """What is known of a technique without importing it."""

    parameters: dict[str, Any]
    """JSON schema of its parameters. `parameter_rules` has rules for several parameters."""
    accepts: StageName
    """Latest stage of a model that it can be applied to."""
    yields: StageName
    """Stage after it, unless the model was at a later one already."""
    rebuilds: bool
    """Whether the graph that it makes can be rebuilt from a network that was trained further."""


Techniques: TypeAlias = Mapping[str, TechniqueInfo]
"""By the name that a recipe uses."""

CONTENT: Final = TypeAdapter(dict[str, TechniqueInfo])
"""The content of the file."""


@cache
def known_techniques() -> Techniques:
    """Return all techniques, as the file lists them."""
    return CONTENT.validate_json(FILE.read_bytes())


def order_error(kinds: Iterable[str], techniques: Techniques) -> str | None:
    """Return why the techniques cannot be applied in this order; None if they can."""
    stage: StageName = "free"
    last: str | None = None
    for number, kind in enumerate(kinds, start=1):
        info = techniques[kind]
        if last is not None and (reason := _reason(info, stage, last, techniques)):
            return f"step {number}, {kind!r}, cannot follow {last!r}: {reason}"
        if _ORDER[info.yields] > _ORDER[stage]:
            stage, last = info.yields, kind
    return None


def _reason(info: TechniqueInfo, stage: StageName, last: str, techniques: Techniques) -> str:
    """Return why a technique cannot follow `last`, which set the stage; "" if it can."""
    if _ORDER[stage] > _ORDER[info.accepts]:
        return _STAGE_ERRORS[stage]
    if stage == "graph" and not techniques[last].rebuilds:
        return f"the graph of {last!r} cannot be rebuilt from a network that was trained further"
    return ""
