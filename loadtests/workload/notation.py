"""Parses lists on a command line, such as `cv2=4,extra=2` and `dense,int8`."""

from __future__ import annotations

from collections.abc import Collection


def parse_pairs(text: str, known: Collection[str]) -> dict[str, str]:
    """Return the values by key, in the order of the text; whitespace around both is removed.

    Raises ValueError if a part has no `=` or no value, if a key is not in `known`, or if a key is
    repeated.
    """
    values: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in known:
            known_keys = f"the keys are {', '.join(known)}" if known else "there are no keys"
            raise ValueError(f"unknown key {key!r}; {known_keys}")
        if not equals or not value:
            raise ValueError(f"{key} requires a value: {key}=VALUE")
        if key in values:
            raise ValueError(f"{key} is repeated")
        values[key] = value
    return values


def parse_names(text: str) -> list[str]:
    """Return the names of a comma-separated list, without whitespace and without empty names."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_number(key: str, text: str) -> float:
    """Parse a number; raises ValueError with the key if the text is not a number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{key} must be a number, got {text!r}") from None
