"""What the reconciler needs of a cluster: applications of hosts, and processes that build.

    reconciler ─▶ Cluster ─▶ Ray in production, an object in tests

An application runs the hosts of one generation. All methods block, so they are called on threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from serving.control.state import Job

GenerationKey: TypeAlias = tuple[str, int]
"""Name of a variant, and number of one of its generations."""

AppStatus: TypeAlias = Literal["starting", "running", "failing", "failed", "stopping"]
"""`failed` means that the cluster gave up starting it. A running application whose replica is
replaced stays `running`, and is `failing` if the replacement cannot start: the cluster tries it
again and again."""


@dataclass(frozen=True, slots=True)
class App:
    """An application in the cluster."""

    status: AppStatus
    error: str | None = None
    """Last error in words: the last line of the traceback of a replica."""


class Cluster(Protocol):
    """A cluster that runs hosts and builds. Every method may raise if it does not answer."""

    def apps(self) -> Mapping[GenerationKey, App]:
        """Return the applications of hosts by generation."""

    def deploy(self, variant: str, generation: int) -> None:
        """Start the application of a generation; return before its hosts have started.

        Does nothing if it exists.
        """

    def delete(self, variant: str, generation: int) -> None:
        """Stop the application of a generation after its batches in flight; do not wait for it.

        Does nothing if it does not exist.
        """

    def builds(self) -> Set[str]:
        """Return the identifiers of the jobs whose builder exists."""

    def start_build(self, job: Job) -> None:
        """Start a process that builds the generation of a job and reports to the store.

        Does nothing if it exists. Returns before the process has started.
        """

    def end_build(self, job_id: str) -> None:
        """End the process of a job, with all its child processes, if it exists."""
