"""Which gateways are live and what they report, and which process may act for the service.

Nothing here changes what should be served, so the revision stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import delete, insert, select, update

from serving.control.state import ReplicaReport
from serving.control.store.database import Transaction
from serving.control.store.tables import GATEWAYS, LEASES, REPORTS

GATEWAY_LOST_S: Final = 5.0
"""Age, in seconds, of the last report of a gateway after which it counts as lost: nothing waits for
it, and what it reported is not shown."""

FORGET_S: Final = 3600.0
"""Seconds after which a gateway that does not report is forgotten."""


def report(transaction: Transaction, gateway: str, reports: Iterable[ReplicaReport]) -> None:
    """Replace the reports of a gateway; they are its heartbeat."""
    connection, now = transaction.connection, transaction.now
    if (
        connection.execute(
            update(GATEWAYS).where(GATEWAYS.c.name == gateway).values(at=now)
        ).rowcount
        == 0
    ):
        connection.execute(insert(GATEWAYS).values(name=gateway, at=now))
    connection.execute(delete(REPORTS).where(REPORTS.c.gateway == gateway))
    rows = [each.model_dump() | {"gateway": gateway, "at": now} for each in reports]
    if rows:
        connection.execute(insert(REPORTS), rows)
    silent = select(GATEWAYS.c.name).where(GATEWAYS.c.at < now - FORGET_S)
    for name in connection.scalars(silent).all():
        forget(transaction, name)


def forget(transaction: Transaction, gateway: str) -> None:
    """Delete a gateway that has stopped, and its reports."""
    transaction.connection.execute(delete(REPORTS).where(REPORTS.c.gateway == gateway))
    transaction.connection.execute(delete(GATEWAYS).where(GATEWAYS.c.name == gateway))


def acquire_lease(transaction: Transaction, name: str, holder: str, ttl_s: float) -> bool:
    """Take or renew a lease; return whether `holder` has it now."""
    connection, expires_at = transaction.connection, transaction.now + ttl_s
    row = connection.execute(select(LEASES).where(LEASES.c.name == name)).one_or_none()
    if row is None:
        connection.execute(insert(LEASES).values(name=name, holder=holder, expires_at=expires_at))
        return True
    if row.holder != holder and row.expires_at > transaction.now:
        return False
    connection.execute(
        update(LEASES).where(LEASES.c.name == name).values(holder=holder, expires_at=expires_at)
    )
    return True


def release_lease(transaction: Transaction, name: str, holder: str) -> None:
    """Release a lease; that of another holder stays."""
    transaction.connection.execute(
        delete(LEASES).where(LEASES.c.name == name, LEASES.c.holder == holder)
    )
