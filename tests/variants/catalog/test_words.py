from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from variants.catalog.record import Record
from variants.catalog.words import first_problem


class _Everything(Record):
    """A record with a field of each kind that records have."""

    text: Annotated[str, Field(min_length=1, max_length=3, pattern=r"^[a-z]+$")] = "a"
    number: int = Field(default=1, ge=1, le=9)
    ratio: float = Field(default=0.5, gt=0, lt=1)
    flag: bool = False
    choice: Literal["a", "b"] = "a"
    many: tuple[int, ...] = Field(default=(1,), min_length=1)
    named: dict[str, int] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": 7}, "text: must be text; write quotes around it if it looks like a number; "
         "got 7"),
        ({"text": ""}, "text: must have at least 1 character; got ''"),
        ({"text": "abcd"}, "text: must have at most 3 characters; got 'abcd'"),
        ({"text": "A"}, "text: must be text of the form ^[a-z]+$; got 'A'"),
        ({"number": "x"}, "number: must be an integer; got 'x'"),
        ({"number": 1.5}, "number: must be an integer, not a fraction; got 1.5"),
        ({"number": 0}, "number: must be at least 1; got 0"),
        ({"number": 10}, "number: must be at most 9; got 10"),
        ({"ratio": 0}, "ratio: must be greater than 0.0; got 0"),
        ({"ratio": 1}, "ratio: must be less than 1.0; got 1"),
        ({"ratio": float("nan")}, "ratio: must be a finite number; got nan"),
        ({"flag": "perhaps"}, "flag: must be true or false; got 'perhaps'"),
        ({"choice": "c"}, "choice: must be 'a' or 'b'; got 'c'"),
        ({"many": 3}, "many: must be a list, as in `[first, second]` or lines that begin with "
         "`- `; got 3"),
        ({"many": ()}, "many: must have at least 1 entry; got ()"),
        ({"named": [1]}, "named: must be a mapping, as in `name: value`; got a list"),
        ({"named": {3: 1}}, "named.3: must be text; write quotes around it if it looks like a "
         "number; got 3"),
        ({"extra": 1}, "extra: there is no such field"),
    ],
)  # fmt: skip
def test_a_mistake_is_described_in_plain_words(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        _Everything.model_validate(values)
    assert first_problem(raised.value) == message
