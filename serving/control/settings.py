"""The settings of what changes a service while it runs; `serving.gateway.settings` has them all."""

from __future__ import annotations

from typing import Final

from pydantic import Field, field_validator

from serving.control.tokens import Token
from variants.catalog.record import Record

FOLDER: Final = ".control"
"""Folder, in the folder of the catalog, of the database and the first token."""


class Control(Record):
    """Where the state of the service is kept, how it is followed, and who may change it."""

    database: str | None = None
    """SQLAlchemy URL of the database; None means a SQLite file in the folder of the catalog."""
    poll_s: float = Field(default=0.5, gt=0, le=2)
    """Interval, in seconds, at which gateways look for changes and report that they live. One that
    has not reported for 5 s counts as lost."""
    rollback_window_s: float = Field(default=30.0, ge=0)
    """Time, in seconds, for which the hosts of a replaced generation are kept, so that it can be
    taken back without starting them. They need memory and CPUs beside those of the new one."""
    kept_generations: int = Field(default=3, ge=0)
    """Generations of each variant to keep on disk besides the published one."""
    kept_jobs: int = Field(default=1_000, ge=1)
    """Number of the newest jobs to keep; older ones are deleted once they are over."""
    kept_history: int = Field(default=10_000, ge=1)
    """Number of the newest entries of the history to keep."""
    tokens: tuple[Token, ...] = ()
    """Tokens of the administrative API. Without any, the first start makes one."""
    open_inference: bool = True
    """Whether inference needs no token. If false, it needs one of any scope."""

    @field_validator("tokens")
    @classmethod
    def _names_differ(cls, tokens: tuple[Token, ...]) -> tuple[Token, ...]:
        names = [token.name for token in tokens]
        if len(set(names)) < len(names):
            raise ValueError("the names of tokens must differ")
        return tokens


class Gate(Record):
    """The rules that a report card must meet before its variant gets requests."""

    max_accuracy_drop: float = Field(default=0.02, ge=0, le=1)
    """Largest drop in accuracy against dense, by the upper end of its 95 % interval."""
    max_class_drop: float | None = Field(default=None, ge=0, le=1)
    """Largest drop in accuracy in any class, by the upper ends of the joint 95 % intervals."""
    memory_bytes: int | None = Field(default=None, ge=1)
    """Maximum resident memory of all hosts of the service together."""
    allow_dominated: bool = False
    """Whether to serve a variant than which another one is more accurate, faster and smaller."""


class Builder(Record):
    """What a build of a running service may use."""

    cpus: float = Field(default=1, gt=0)
    """CPUs that Ray reserves for a build; rounded up, its number of training threads."""
    memory_bytes: int = Field(default=4 * 2**30, ge=2**20)
    """Maximum resident memory of the builder and its child processes."""
    time_s: float = Field(default=3600, gt=0)
    """Maximum duration of a build, in seconds."""
    niceness: int = Field(default=19, ge=0, le=19)
    """Priority of the builder; 19 is the lowest."""
    max_recipe_bytes: int = Field(default=65536, ge=2)
    """Maximum size of a recipe from the network, as JSON."""
    max_steps: int = Field(default=8, ge=1)
    """Maximum number of steps of a recipe from the network."""
    max_epochs: int = Field(default=100, ge=0)
    """Maximum number of training epochs of a recipe from the network, over all of its steps."""
