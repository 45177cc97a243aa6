from __future__ import annotations

import pytest

from variants.compression.techniques.ramp import ramp


def test_the_ramp_is_cubic_and_fastest_at_first() -> None:
    assert [ramp(done, 4) for done in range(5)] == pytest.approx([0, 37 / 64, 56 / 64, 63 / 64, 1])
    assert [ramp(rounds, rounds) for rounds in range(1, 8)] == [1.0] * 7
