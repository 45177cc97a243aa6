"""What a client accepts, in the order of its preference: Accept and Accept-Encoding."""

from __future__ import annotations

from typing import NamedTuple


class Preference(NamedTuple):
    """One item of such a header."""

    name: str
    """In lower case."""
    parameters: str
    """Those beside the weight, as they were sent, with the semicolons before them."""
    weight: float
    """From 0, which means that it is not accepted, to 1."""


def read_preferences(header: bytes) -> list[Preference]:
    """Return the items of a header, those of equal weight in their order."""
    items = [_read(item) for item in header.decode("latin-1").split(",") if item.strip()]
    return sorted(items, key=lambda item: -item.weight)


def _read(item: str) -> Preference:
    name, *parameters = [part.strip() for part in item.split(";")]
    weight, others = 1.0, ""
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "q":
            weight = _weight(value)
        else:
            others += f"; {parameter}"
    return Preference(name.lower(), others, weight)


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 1.0
    return weight if 0 <= weight <= 1 else 1.0
