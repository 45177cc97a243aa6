from __future__ import annotations

import pytest

from serving.errors import InvalidRequest
from serving.protocol.repeated import SINGLE, join_repeated


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_a_header_with_one_value_must_not_contradict_itself(name: str) -> None:
    assert join_repeated([(name, "5"), ("other", "1"), (name, "5")]) == {name: "5", "other": "1"}
    with pytest.raises(InvalidRequest, match=f"{name} is given twice with different values"):
        join_repeated([(name, "5"), ("other", "1"), (name, "500")])


def test_the_values_of_other_headers_are_joined_in_their_order() -> None:
    pairs = [("accept", "a"), ("via", "x"), ("accept", "b, c"), ("accept", "d")]
    assert join_repeated(pairs) == {"accept": "a, b, c, d", "via": "x"}
