"""Generations get the time at which they came into their state; it is not known of former ones."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("generations", sa.Column("since", sa.Double()))
