"""The tables of the state as they are now; `migrations/versions` creates and changes them.

service      the revision, one row; a writer locks it first
variants     names, and the next generation's number
generations  one artifact of a variant each
jobs         requests to change the state, with their progress; job_log has their output
history      who did what, and when
gateways     heartbeats; reports has what each gateway sees of each generation
leases       which process may act for the whole service
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)

METADATA: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

SERIAL: Final = BigInteger().with_variant(Integer, "sqlite")
"""Type of a key that the database numbers; SQLite does so for INTEGER only."""

SERVICE: Final = Table(
    "service",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("revision", BigInteger, nullable=False),
)

VARIANTS: Final = Table(
    "variants",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("next_number", Integer, nullable=False),
    Column("is_removed", Boolean, nullable=False),
)

GENERATIONS: Final = Table(
    "generations",
    METADATA,
    Column("variant", Text, ForeignKey("variants.name"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("digest", Text),
    Column("created_at", Double, nullable=False),
    Column("published_at", Double),
    Column("gate", Text),
    Column("probe_s", Double),
    Column("error", Text),
    Column("has_files", Boolean, nullable=False),
    Column("since", Double),
    Index(
        "ix_generations_one_published",
        "variant",
        unique=True,
        sqlite_where=text("state = 'published'"),
        postgresql_where=text("state = 'published'"),
    ),
)

JOBS: Final = Table(
    "jobs",
    METADATA,
    Column("position", SERIAL, primary_key=True),
    Column("id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("variant", Text, ForeignKey("variants.name"), nullable=False),
    Column("generation", Integer),
    Column("former_state", Text),
    Column("status", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("stage_since", Double, nullable=False),
    Column("stage_seconds", Text, nullable=False),
    Column("share", Double, nullable=False),
    Column("recipe", Text),
    Column("actor", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("heartbeat_at", Double),
    Column("attempts", Integer, nullable=False),
    Column("cancelled_by", Text),
    Column("force", Boolean, nullable=False),
    Column("reason", Text),
    Column("error", Text),
    Column("log_lines", Integer, nullable=False),
    Column("idempotency_key", Text),
    Column("body_sha256", Text),
    Index("ix_jobs_id", "id", unique=True),
    Index("ix_jobs_idempotency_key", "actor", "idempotency_key", unique=True),
    Index(
        "ix_jobs_one_active",
        "variant",
        unique=True,
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
)

JOB_LOG: Final = Table(
    "job_log",
    METADATA,
    Column("job", SERIAL, ForeignKey("jobs.position"), primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("text", Text, nullable=False),
)

HISTORY: Final = Table(
    "history",
    METADATA,
    Column("number", SERIAL, primary_key=True),
    Column("at", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("details", Text, nullable=False),
)

GATEWAYS: Final = Table(
    "gateways",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("at", Double, nullable=False),
)

REPORTS: Final = Table(
    "reports",
    METADATA,
    Column("gateway", Text, ForeignKey("gateways.name"), primary_key=True),
    Column("variant", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("replicas", Integer, nullable=False),
    Column("error", Text),
    Column("at", Double, nullable=False),
)

LEASES: Final = Table(
    "leases",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("expires_at", Double, nullable=False),
)
