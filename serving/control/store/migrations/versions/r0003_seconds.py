"""The latency of the probe of a generation is in seconds, as all other durations are."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Rename the column and convert what is in it."""
    op.execute("ALTER TABLE generations RENAME COLUMN probe_ms TO probe_s")
    op.execute("UPDATE generations SET probe_s = probe_s / 1000")
