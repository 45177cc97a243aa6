"""A generation whose hosts a gateway discovers, and what is known of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from serving.gateway.description import HostDescription
from serving.routing.generation import generation_key

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Watch:
    """A generation whose hosts are to be in the pool."""

    variant: str
    generation: int
    sizes: Sequence[int]
    """Batch sizes with which a new host is timed."""
    digest: str
    """Digest of the files that its hosts must have loaded."""
    is_awaited: bool
    """Whether a starting gateway connects to no host before this generation has hosts."""
    error: str | None = None
    """Why it has no hosts, or why one does not work, as last known; None if it has all."""
    logged_error: str | None = None
    """The last error that was logged, since it had all hosts."""
    hosts: Sequence[HostDescription] = ()
    """All its replicas that have loaded the right files, as last described."""
    description: asyncio.Task[list[HostDescription] | None] | None = None
    connecting: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Tasks that connect to a host and time it, by address."""
    lost_at: float | None = None
    """When a host was last lost while it warmed up; None if one has warmed up since."""
    known_nodes: set[str] = field(default_factory=set)
    """Nodes that need no timing: a host there was timed, or had served before."""
    failure_checked_at: float = 0.0
    """When the registry was last queried for the cause of a failure."""

    @property
    def key(self) -> str:
        """The routing key of the generation."""
        return generation_key(self.variant, self.generation)

    @property
    def addresses(self) -> set[str]:
        """The addresses of its replicas."""
        return {host.address for host in self.hosts}

    def fail(self, error: str, host: str | None = None) -> None:
        """Record an error, perhaps of the host at an address, and log it if it is new."""
        self.error = error
        if error != self.logged_error:
            self.logged_error = error
            at = {} if host is None else {"host": host}
            logger.error("hosts cannot be used", extra={"variant": self.key, "cause": error, **at})

    def recover(self) -> None:
        """Record that there is no error any more."""
        self.error = self.logged_error = None

    def cancel(self) -> None:
        """Stop what is under way."""
        for task in (self.description, *self.connecting.values()):
            if task is not None:
                task.cancel()


def wrong_files(watch: Watch, digest: str) -> str:
    """Return the error of a host that has loaded files with this digest."""
    return (
        f"a host has loaded other files than generation {watch.generation} of {watch.variant} has "
        f"in the catalog (digest {digest[:12]} instead of {watch.digest[:12]}): put these back and "
        "restart the host, or restart the service"
    )
