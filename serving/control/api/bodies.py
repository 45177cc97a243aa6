"""The bodies and the parameters of admin requests, and their errors in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias, TypeVar

from pydantic import Discriminator, Field, Tag, ValidationError

from serving.errors import InvalidRequest, shorten
from serving.protocol.json_document import parse_json
from variants.catalog.recipe import Recipe, VariantName
from variants.catalog.record import Record
from variants.catalog.words import described_pattern, plain

B = TypeVar("B", bound=Record)

Reason: TypeAlias = Annotated[
    str,
    Field(
        min_length=1,
        max_length=500,
        pattern=described_pattern(r"\S", "must be text with something other than spaces"),
    ),
]

_NAME, _STEPS = "name", "steps"


def _kind(value: Any) -> str:
    return _NAME if isinstance(value, str) else _STEPS


RecipeOrName: TypeAlias = Annotated[
    Annotated[VariantName, Tag(_NAME)] | Annotated[Recipe, Tag(_STEPS)], Discriminator(_kind)
]


class Replacement(Record):
    """What makes a new generation."""

    recipe: RecipeOrName | None = Field(
        default=None,
        description="Steps, or the name of a recipe of the project file. Without it: what is on "
        "disk under the name of the variant, else the recipe of that name.",
    )
    dry_run: bool = Field(
        default=False,
        description="Check the recipe and estimate its cost, and change nothing.",
    )
    force: bool = Field(
        default=False,
        description="Publish it whatever the gate finds. Needs a reason.",
    )
    reason: Reason | None = Field(default=None, description="A text for the history.")


class Addition(Replacement):
    """A variant to add."""

    name: VariantName


class Rollback(Record):
    """A return to a former generation."""

    generation: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="Without it: the one that was published last before the present one.",
    )
    reason: Reason | None = Field(default=None, description="A text for the history.")


class Publication(Record):
    """A generation to publish by hand."""

    generation: int = Field(ge=1, le=2**31 - 1)
    reason: Reason = Field(description="Why, for the history.")


def parse_body(kind: type[B], body: bytes) -> B:
    """Parse a JSON body; no body is an empty object.

    Raises `InvalidRequest` with the field and the problem.
    """
    body = body or b"{}"
    parse_json(body)  # pydantic would accept NaN and infinity, which are not JSON
    try:
        return kind.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise InvalidRequest(f"the body: {describe(error, kind)}") from None


def describe(error: ValidationError, kind: type[Record]) -> str:
    """Return the first problem of a record in words, with its place."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in (_NAME, _STEPS))
    if first["loc"] and first["loc"][-1] == _NAME and not place:
        place = _NAME
    text = plain(first)
    if first["type"] == "extra_forbidden":
        text = f"no such field; the fields are {', '.join(kind.model_fields)}"
        if len(first["loc"]) > 1:
            text = "no such field; a step has the fields technique and parameters"
    return f"{place[:100]}: {text}" if place else text


_FLAGS: Final[Mapping[str, bool]] = {"true": True, "false": False}


def flag(query: Mapping[str, str], name: str) -> bool:
    """Return a parameter of the query that is true or false, by default false."""
    text = query.get(name, "false")
    if text not in _FLAGS:
        raise InvalidRequest(f"{name} must be true or false, got {shorten(text)}")
    return _FLAGS[text]


def integer(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """Return an integer parameter of the query."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high):
        raise InvalidRequest(f"{name} must be an integer from {low} to {high}, got {shorten(text)}")
    return int(text)


def reason(query: Mapping[str, str]) -> str | None:
    """Return the reason in a query, if any."""
    text = query.get("reason")
    if text is not None and not (text.strip() and len(text) <= 500):
        raise InvalidRequest("reason must have 1 to 500 characters, not only spaces")
    return text
