"""Text such as `cv2=4,extra=2`, or `dense,int8`: how a command line writes several things."""

from __future__ import annotations

from collections.abc import Collection


def parse_pairs(text: str, known: Collection[str]) -> dict[str, str]:
    """Return the values by key, in the order written; blanks around either do not count.

    Raises `ValueError` for a part without `=` or without a value, for a key that is not `known`,
    and for one that is given twice.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in known:
            known_keys = f"the keys are {', '.join(known)}" if known else "it takes none"
            raise ValueError(f"unknown key {key!r}; {known_keys}")
        if not equals or not value:
            raise ValueError(f"{key} needs a value: {key}=VALUE")
        if key in found:
            raise ValueError(f"{key} is given twice")
        found[key] = value
    return found


def parse_names(text: str) -> list[str]:
    """Return names that commas separate; blanks around them do not count, nor do empty ones."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_number(key: str, text: str) -> float:
    """Read a number; raises `ValueError` naming the key."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{key} must be a number, got {text!r}") from None
