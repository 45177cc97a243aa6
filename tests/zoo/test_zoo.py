"""A sample of the zoo; `make zoo` tries all networks."""

from __future__ import annotations

from typing import Final

import pytest

from tests.zoo.networks import SPECIMENS
from tests.zoo.trial import try_specimen

SAMPLE: Final = ("in-place", "tuple-output", "by-keyword", "called-twice")


def test_the_zoo_has_many_networks() -> None:
    assert len(SPECIMENS) >= 60


@pytest.mark.usefixtures("onnx_operators")
@pytest.mark.parametrize("name", SAMPLE)
def test_every_technique_is_right_or_refused(name: str) -> None:
    failures = {
        outcome.case: outcome.text
        for outcome in try_specimen(SPECIMENS[name])
        if outcome.verdict not in ("right", "refused")
    }
    assert not failures
