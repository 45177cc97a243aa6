"""Experiments, and the assignment of requests to their arms.

A unit is always assigned to the same arm: its salted hash is a number in [0, 1), and each arm has
an interval whose length is its share of the weights. Without a unit the number is random.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from hashlib import blake2b
from typing import Annotated

from pydantic import Field, field_validator

from variants.catalog.recipe import VariantName
from variants.catalog.record import Record

ROUTER = "router"
"""Target of an arm whose requests are routed as without an experiment."""


class Arm(Record):
    """One treatment: its requests go to `target`, the name of a variant or "router"."""

    name: VariantName
    target: str
    weight: float = Field(gt=0)


class Experiment(Record):
    """An A/B test of compression levels. A new `salt` assigns all units again."""

    name: VariantName
    salt: str = ""
    arms: Annotated[tuple[Arm, ...], Field(min_length=2)]

    @field_validator("arms")
    @classmethod
    def _names_are_unique(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        names = [arm.name for arm in arms]
        if len(set(names)) != len(names):
            raise ValueError(f"the names of arms must be unique, got {', '.join(names)}")
        return arms

    def assign(self, unit: str | None) -> Arm:
        """Return the arm of a unit, for example a user or a session. Random if it is None."""
        place = random.random() if unit is None else self._place(unit)
        place *= sum(arm.weight for arm in self.arms)
        for arm in self.arms[:-1]:
            place -= arm.weight
            if place < 0:
                return arm
        return self.arms[-1]

    def is_fair_to(self, qualifying: Collection[str]) -> bool:
        """Return whether all arms could serve a request, so that it may be compared by arm.

        `qualifying` are the names of the variants that qualify for the request.
        """
        return all(arm.target == ROUTER or arm.target in qualifying for arm in self.arms)

    def _place(self, unit: str) -> float:
        digest = blake2b(f"{self.name}\0{self.salt}\0{unit}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64
