"""The settings of what changes a service while it runs; `serving.gateway.settings` has them all."""

from __future__ import annotations

from pydantic import Field, field_validator

from serving.control.tokens import Token
from variants.catalog.record import Record


class Control(Record):
    """Where the state of the service is kept, how it is followed, and who may change it."""

    database: str | None = None
    """SQLAlchemy URL of the database; None means a SQLite file in the folder of the catalog."""
    poll_s: float = Field(default=0.5, gt=0)
    """Interval, in seconds, at which gateways look for changes."""
    kept_generations: int = Field(default=3, ge=0)
    """Generations of each variant to keep on disk besides the published one."""
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


class Builder(Record):
    """The process that builds variants while the service runs."""

    cpus: float = Field(default=1.0, ge=0)
    """CPUs that Ray reserves for it."""
