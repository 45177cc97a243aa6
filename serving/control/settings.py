"""The settings of what changes a service while it runs; `serving.gateway.settings` has them all."""

from __future__ import annotations

from pydantic import Field

from variants.catalog.record import Record


class Control(Record):
    """Where the state of the service is kept, and how it is followed."""

    database: str | None = None
    """SQLAlchemy URL of the database; None means a SQLite file in the folder of the catalog."""
    poll_s: float = Field(default=0.5, gt=0)
    """Interval, in seconds, at which gateways look for changes."""
    kept_generations: int = Field(default=3, ge=0)
    """Generations of each variant to keep on disk besides the published one."""


class Builder(Record):
    """The process that builds variants while the service runs."""

    cpus: float = Field(default=1.0, ge=0)
    """CPUs that Ray reserves for it."""
