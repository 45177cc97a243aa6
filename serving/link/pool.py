"""The live host replicas of every variant to which a gateway is connected.

Variants are given by their routing keys, so the hosts of two generations are never mixed.
"""

from __future__ import annotations

from collections.abc import Callable

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import HostLost, OnOutcome
from serving.link.calls import Connection


class HostPool:
    """Connections to the live replicas by variant; sends each batch to the least loaded one."""

    def __init__(self, on_change: Callable[[str, int], None]) -> None:
        """`on_change` is called with a variant and its new number of live replicas."""
        self._on_change = on_change
        self._hosts: dict[str, list[Connection]] = {}

    def hosts(self, variant: str) -> list[Connection]:
        """Return the connections to the live replicas of a variant."""
        return list(self._hosts.get(variant, ()))

    def add(self, variant: str, host: Connection) -> None:
        """Use this replica for batches from now on."""
        self._hosts.setdefault(variant, []).append(host)
        self._on_change(variant, len(self._hosts[variant]))

    def remove(self, variant: str, host: Connection) -> bool:
        """Send the replica no more batches; those in flight may finish.

        Returns False if the replica was not in the pool.
        """
        hosts = self._hosts.get(variant, [])
        if host not in hosts:
            return False
        hosts.remove(host)
        if not hosts:
            del self._hosts[variant]
        self._on_change(variant, len(hosts))
        return True

    def send(self, variant: str, inputs: Arrays, on_outcome: OnOutcome[Arrays]) -> None:
        """Send one batch to the least loaded replica; see `Connection.send`.

        Raises `HostLost` if the variant has no live replica.
        """
        hosts = self._hosts.get(variant)
        if not hosts:
            raise HostLost(variant)
        min(hosts, key=lambda host: host.in_flight).send(inputs, on_outcome)
