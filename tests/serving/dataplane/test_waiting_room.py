from __future__ import annotations

import math

import pytest

from serving.dataplane.waiting_room import WaitingRoom


def room(**until: float) -> WaitingRoom[str]:
    """Return a room with requests named by their priority and a letter, in order of arrival."""
    waiting = WaitingRoom[str]()
    for name, at in until.items():
        waiting.add(name, int(name[1:-1]), at)
    return waiting


def test_the_newest_of_the_highest_priority_is_taken_first() -> None:
    waiting = room(p10a=1.0, p1a=1.0, p10b=1.0, p1b=1.0)
    assert (len(waiting), waiting.best_rank) == (4, 1)
    assert [waiting.take() for _ in range(4)] == ["p1b", "p1a", "p10b", "p10a"]
    assert not waiting


def test_requests_that_have_waited_too_long_are_taken_out_oldest_first() -> None:
    waiting = room(p10a=1.0, p1a=1.5, p10b=2.0)
    assert waiting.next_expiry == 1.0
    assert waiting.take_expired(0.9) == []
    assert waiting.take_expired(1.5) == ["p10a", "p1a"]
    assert (len(waiting), waiting.next_expiry) == (1, 2.0)
    assert waiting.take_expired(5.0) == ["p10b"]
    assert (len(waiting), waiting.next_expiry) == (0, math.inf)


@pytest.mark.parametrize(("name", "rank", "is_removed"), [("p10a", 10, True), ("p10z", 10, False)])
def test_a_request_can_be_removed_once(name: str, rank: int, is_removed: bool) -> None:
    waiting = room(p10a=1.0)
    assert waiting.remove(name, rank) is is_removed
    assert waiting.remove(name, rank) is False
    assert len(waiting) == 1 - is_removed
