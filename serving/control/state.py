"""The desired state of a service as plain data: variants, their generations, and jobs.

    recipe ─▶ job ─▶ generation: building ─▶ warming ─▶ published ─▶ draining ─▶ kept ─▶ deleted
                                    └─▶ failed | rejected

A generation is one artifact of a variant. It is never changed: a new recipe makes a new generation,
and statistics, latencies and metrics belong to a generation, not to a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

from variants.catalog.recipe import Recipe, VariantName
from variants.catalog.record import Record

GenerationState: TypeAlias = Literal[
    "building",  # a job makes it
    "rejected",  # built and kept, but the gate did not let it pass; can be published by hand
    "warming",  # its hosts start and are timed; it gets no request
    "published",  # it gets requests; one generation of a variant at most
    "draining",  # it gets no new requests; its hosts are stopped soon, or it is taken back
    "kept",  # on disk, without hosts; can be published again
    "failed",  # it could not be built or loaded
    "deleted",  # its files are deleted; only its history is left
]

JobKind: TypeAlias = Literal["build", "publish", "remove"]
"""`build` makes a generation from a recipe and publishes it, `publish` publishes one that is on
disk (an artifact that is already built, a rollback, one that the gate rejected), and `remove`
drains a variant."""

JobStage: TypeAlias = Literal[
    "queued", "techniques", "recovery", "evaluation", "profiling", "gate", "warming", "published",
    "draining",
]  # fmt: skip
STAGES: Final[Sequence[JobStage]] = (
    "queued", "techniques", "recovery", "evaluation", "profiling", "gate", "warming", "published",
)  # fmt: skip
"""The stages of a build, in order. A job of kind `publish` has the last two, and one of kind
`remove` only `draining`."""

JobStatus: TypeAlias = Literal["queued", "running", "succeeded", "failed", "rejected", "cancelled"]
ENDED: Final[frozenset[JobStatus]] = frozenset({"succeeded", "failed", "rejected", "cancelled"})

Scope: TypeAlias = Literal["read", "admin"]
"""What a token allows: to read the state, or also to change it."""

GateVerdict: TypeAlias = Literal["pass", "fail", "inconclusive"]


class GateCheck(Record):
    """One rule of the gate and what was found."""

    rule: str
    """Name of the setting, such as `max_accuracy_drop`."""
    verdict: GateVerdict
    limit: float | None
    found: float | None
    text: str
    """The result in words; for an inconclusive one, how many samples would decide it."""


class GateReport(Record):
    """The verdict of the gate on a generation: the worst of its checks."""

    verdict: GateVerdict
    checks: tuple[GateCheck, ...]
    overridden_by: str | None = None
    """Who published it in spite of the verdict."""
    reason: str | None = None
    """Why it was published in spite of the verdict."""

    def describe(self) -> str:
        """Return the verdict and the checks that did not pass, in words."""
        failed = [check.text for check in self.checks if check.verdict != "pass"]
        return ": ".join(filter(None, ["the gate", self.verdict, "; ".join(failed)]))


class Generation(Record):
    """One generation of a variant. Times are in seconds since 1970."""

    variant: VariantName
    number: int
    state: GenerationState
    recipe: Recipe
    digest: str | None
    """SHA-256 over the names and hashes of the artifact's files; None until it is built."""
    created_at: float
    published_at: float | None = None
    gate: GateReport | None = None
    probe_s: float | None = None
    """Median latency, in seconds, of its first requests through the serving path, before it was
    published."""
    error: str | None = None
    """The last error in words."""
    since: float | None = None
    """When it came into its present state, if that is known."""


class VariantRecord(Record):
    """A variant by name: the generation that is or should be served, and all others."""

    name: VariantName
    published: int | None
    """The generation that gets requests, if any."""
    generations: tuple[Generation, ...]
    """In ascending order."""


class Job(Record):
    """A request to change the state, and how far it is. Times are in seconds since 1970."""

    id: str
    kind: JobKind
    variant: VariantName
    generation: int | None
    status: JobStatus
    stage: JobStage
    share: float
    """Share of the stage that is done, from 0 to 1."""
    recipe: Recipe | None
    actor: str
    """Name of the token of the request."""
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    heartbeat_at: float | None = None
    """When the builder last reported; an old one means that it is gone."""
    attempts: int = 0
    cancel_requested: bool = False
    force: bool = False
    reason: str | None = None
    error: str | None = None
    stage_seconds: Mapping[str, float] = {}
    """Seconds spent in each stage that is over."""
    estimate_s: float | None = None
    """Estimate of the time left, from former jobs; None if there are none."""


class LogLine(Record):
    """A line of a job's log. Numbers count from 1 within a job."""

    number: int
    at: float
    text: str


class HistoryEntry(Record):
    """Who did what, and when."""

    number: int
    at: float
    actor: str
    action: str
    """A request: `add`, `replace`, `publish`, `rollback`, `remove`, `cancel`. Its outcome:
    `published`, `rejected`, `failed`, `requeued`, `removed`, `deleted`. Or `adopt`, or
    `login failed`."""
    subject: str
    """A variant, a generation such as `int8@2`, or a job."""
    details: str = ""


class ReplicaReport(Record):
    """What one gateway sees of one generation."""

    gateway: str
    variant: VariantName
    generation: int
    state: Literal["starting", "warm", "routed", "draining", "failed"]
    replicas: int
    """Number of host replicas to which the gateway is connected."""
    error: str | None = None
    at: float


class Lineup(Record):
    """What all gateways should serve, at one revision of the state."""

    revision: int
    published: Mapping[VariantName, int]
    """The generation of each variant that gets requests."""
    warming: Mapping[VariantName, int]
    """Generations that gateways should connect to and time, but not route to."""


class Snapshot(Record):
    """All that the reconciler decides on, read at one moment."""

    lineup: Lineup
    variants: tuple[VariantRecord, ...]
    jobs: tuple[Job, ...]
    """The active jobs, in the order of their submission."""
    reports: tuple[ReplicaReport, ...]
    """Of the live gateways only."""
    gateways: frozenset[str]
    """The live gateways."""
    at: float
