"""Mistakes in data that people write, in plain words instead of pydantic's.

pydantic's error: type and context ─▶ what the value must be
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from pydantic import ValidationError
from pydantic_core import ErrorDetails

Context: TypeAlias = Mapping[str, Any]

PATTERNS: Final[dict[str, str]] = {}
"""What text must be to match a pattern, by the pattern. `described_pattern` adds to it."""

_PLAIN: Final[Mapping[str, str]] = {
    "missing": "is required",
    "extra_forbidden": "there is no such field",
    "string_type": "must be text; write quotes around it if it looks like a number",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer, not a fraction",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "dict_type": "must be a mapping, as in `name: value`",
    "model_type": "must be a mapping, as in `name: value`",
    "model_attributes_type": "must be a mapping, as in `name: value`",
    "list_type": "must be a list, as in `[first, second]` or lines that begin with `- `",
    "tuple_type": "must be a list, as in `[first, second]` or lines that begin with `- `",
    "frozen_set_type": "must be a list, as in `[first, second]`",
    "set_type": "must be a list, as in `[first, second]`",
    "none_required": "must be null",
    "path_type": "must be the path of a file or folder",
    "bytes_type": "must be text",
    "invalid_key": "every name must be text",
    "json_invalid": "is not valid JSON",
    "string_unicode": "must be valid text",
}
_WITH_CONTEXT: Final[Mapping[str, Callable[[Context], str]]] = {
    "string_pattern_mismatch": lambda c: PATTERNS.get(
        c["pattern"], f"must be text of the form {c['pattern']}"
    ),
    "string_too_short": lambda c: f"must have at least {_counted(c['min_length'], 'character')}",
    "string_too_long": lambda c: f"must have at most {_counted(c['max_length'], 'character')}",
    "too_short": lambda c: f"must have at least {_counted(c['min_length'], 'entry', 'entries')}",
    "too_long": lambda c: f"must have at most {_counted(c['max_length'], 'entry', 'entries')}",
    "literal_error": lambda c: f"must be {c['expected']}",
    "enum": lambda c: f"must be {c['expected']}",
    "greater_than": lambda c: f"must be greater than {c['gt']}",
    "greater_than_equal": lambda c: f"must be at least {c['ge']}",
    "less_than": lambda c: f"must be less than {c['lt']}",
    "less_than_equal": lambda c: f"must be at most {c['le']}",
    "multiple_of": lambda c: f"must be a multiple of {c['multiple_of']}",
}


def plain(detail: ErrorDetails) -> str:
    """Return what is wrong with a value in plain words, with the value if it is short."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        return str(context.get("error", detail["msg"]))
    if kind in _WITH_CONTEXT:
        text = _WITH_CONTEXT[kind](context)
    elif kind in _PLAIN:
        text = _PLAIN[kind]
    else:  # of a validator of ours, or of a kind that no record has
        text = detail["msg"].removeprefix("Value error, ").replace("Input should", "must")
    if kind in ("missing", "extra_forbidden", "json_invalid") or not text.startswith("must"):
        return text
    return text + _got(detail["input"])


def first_problem(error: ValidationError, whole: str = "the file") -> str:
    """Return the first mistake with its place; `whole` names the place of the whole document."""
    detail = error.errors()[0]
    return f"{place(detail) or whole}: {plain(detail)}"


def place(detail: ErrorDetails) -> str:
    """Return the path of a value, as in `recipes.int8.0.technique`."""
    return ".".join(str(part) for part in detail["loc"] if part != "[key]")


def described_pattern(pattern: str, words: str) -> str:
    """Return the pattern, and use these words where text does not match it."""
    PATTERNS[pattern] = words
    return pattern


def _got(value: object) -> str:
    if isinstance(value, (dict, list, tuple)) and value:
        return f"; got a {'mapping' if isinstance(value, dict) else 'list'}"
    shown = repr(value)
    return f"; got {shown}" if len(shown) <= 60 else f"; got {shown[:57]}..."


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
