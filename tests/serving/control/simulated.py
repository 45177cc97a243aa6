"""A service without processes: the real store and reconciler, a cluster and gateways in memory.

Time passes in steps of half a second. A `Crash` interrupts the reconciler after one of its
changes, as `kill -9` would; another reconciler goes on in the next step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from serving.control.cluster import App, GenerationKey
from serving.control.reconciler import Reconciler
from serving.control.state import GateReport, GateVerdict, Job, ReplicaReport
from serving.control.store.store import Store
from variants.catalog.recipe import Recipe, Step
from variants.catalog.storage import Storage

STEP_S = 0.5
KEPT_HISTORY = 100
RECIPE: Recipe = (Step(technique="int8"),)
CHANGES = frozenset(
    {
        "start_job", "requeue", "fail", "cancelled", "publish", "routed", "drained", "removed",
        "set_error", "delete_old", "files_deleted", "delete_records",
        "deploy", "delete", "start_build", "end_build",
    }
)  # fmt: skip
"""Methods of store and cluster that change something."""


@cache
def _empty_database() -> bytes:
    """Return a database after the migrations, which take longer than a scenario."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.db"
        Store(f"sqlite:///{path}").close()
        return path.read_bytes()


class Crash(BaseException):
    """The end of the process of the reconciler."""


@dataclass
class CrashPoint:
    """Ends the process after so many changes; by default never.

    Before a change is the same as after the one before it.
    """

    after: float = float("inf")
    changes: int = 0

    def around(self, target: object) -> Any:
        """Return an object like `target` whose changes may be interrupted."""
        return _Interrupted(target, self)


class _Interrupted:
    def __init__(self, target: object, point: CrashPoint) -> None:
        self._target = target
        self._point = point

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        return self._wrap(method) if name in CHANGES else method

    def _wrap(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result = method(*arguments)
            self._point.changes += 1
            if self._point.changes == self._point.after:
                raise Crash
            return result

        return call


@dataclass
class MemoryCluster:
    """A cluster whose applications run in the step after they are started."""

    running: dict[GenerationKey, App] = field(default_factory=dict)
    building: dict[str, int] = field(default_factory=dict)
    """Steps that each builder has done."""
    broken: set[GenerationKey] = field(default_factory=set)
    """Generations whose hosts fail to start."""
    deployed: list[GenerationKey] = field(default_factory=list)
    on_delete: Callable[[GenerationKey], None] = lambda key: None

    def apps(self) -> Mapping[GenerationKey, App]:
        return dict(self.running)

    def deploy(self, variant: str, generation: int) -> None:
        if (variant, generation) not in self.running:
            self.running[variant, generation] = App("starting")
            self.deployed.append((variant, generation))

    def delete(self, variant: str, generation: int) -> None:
        if (variant, generation) in self.running:
            self.on_delete((variant, generation))
            self.running[variant, generation] = App("stopping")

    def builds(self) -> Set[str]:
        return set(self.building)

    def start_build(self, job: Job) -> None:
        self.building.setdefault(job.id, 0)

    def end_build(self, job_id: str) -> None:
        self.building.pop(job_id, None)

    def step(self) -> None:
        for key, app in list(self.running.items()):
            match app.status:
                case "starting" if key in self.broken:
                    self.running[key] = App("failed", "model.onnx is damaged")
                case "starting":
                    self.running[key] = App("running")
                case "stopping":
                    del self.running[key]
                case _:
                    pass


@dataclass
class MemoryGateway:
    """A gateway that follows the lineup: it routes to a generation as soon as its hosts run."""

    name: str
    store: Store
    routed: dict[str, int] = field(default_factory=dict)
    is_alive: bool = True
    excluded: frozenset[GenerationKey] = frozenset()

    def step(self, apps: Mapping[GenerationKey, App]) -> None:
        if not self.is_alive:
            return
        lineup = self.store.lineup()
        published = dict(lineup.published.items() - self.excluded)
        up = {key for key, app in apps.items() if app.status == "running"}
        reports = [
            self._report(key, "warm" if key in up else "starting", int(key in up))
            for key in lineup.warming.items()
        ]
        for name in self.routed.keys() - published.keys():
            del self.routed[name]
        for key in published.items():
            if key in up:
                self.routed[key[0]] = key[1]
            is_routed = self.routed.get(key[0]) == key[1]
            reports.append(self._report(key, "routed" if is_routed else "starting", int(key in up)))
            if not is_routed and key[0] in self.routed:
                reports.append(self._report((key[0], self.routed[key[0]]), "draining", 1))
        self.store.report(self.name, reports)

    def _report(self, key: GenerationKey, state: Any, replicas: int) -> ReplicaReport:
        return ReplicaReport(
            gateway=self.name,
            variant=key[0],
            generation=key[1],
            state=state,
            replicas=replicas,
            at=0.0,
        )


class World:
    """The store, the cluster, two gateways, and the reconcilers of the gateways."""

    def __init__(
        self,
        folder: Path,
        crash: CrashPoint | None = None,
        excluded: frozenset[GenerationKey] = frozenset(),
        rollback_window_s: float = 0.0,
    ) -> None:
        self.now = 1000.0
        (folder / "state.db").write_bytes(_empty_database())
        self.store = Store(f"sqlite:///{folder / 'state.db'}", clock=lambda: self.now)
        self.cluster = MemoryCluster(on_delete=self._check_unused)
        self.gateways = [MemoryGateway(name, self.store, excluded=excluded) for name in "ab"]
        self.crash = crash or CrashPoint()
        self.verdict: GateVerdict = "pass"
        self.builder_steps = 3
        self.rollback_window_s = rollback_window_s
        self.probed: list[GenerationKey] = []
        self.mute: set[GenerationKey] = set()
        """Generations whose hosts do not answer a probe."""
        self._folder = folder
        self._excluded = excluded
        self._storage: Storage | None = None
        self._reconcilers = {each.name: self.new_reconciler(each.name) for each in self.gateways}
        for name in ("dense", "int8"):
            self.store.adopt(name, f"digest of {name}", RECIPE)

    def new_reconciler(self, holder: str) -> Reconciler:
        """Return a reconciler of a gateway."""
        return Reconciler(
            holder,
            self.crash.around(self.store),
            self.crash.around(self.cluster),
            self._probe,
            self._folder,
            replicas=1,
            rollback_window_s=self.rollback_window_s,
            kept_generations=2,
            kept_jobs=100,
            kept_history=KEPT_HISTORY,
            storage=self._storage,
            excluded=self._excluded,
            clock=lambda: self.now,
        )

    def use(self, storage: Storage) -> None:
        """Start the reconcilers again, with a storage."""
        self._storage = storage
        for holder, reconciler in self._reconcilers.items():
            reconciler.release()
            self._reconcilers[holder] = self.new_reconciler(holder)

    def _probe(self, variant: str, generation: int) -> float:
        assert self.cluster.running[variant, generation].status == "running"
        self.probed.append((variant, generation))
        if (variant, generation) in self.mute:
            raise TimeoutError
        return 1.5

    def _check_unused(self, key: GenerationKey) -> None:
        """No hosts are stopped that a gateway sends requests to."""
        for gateway in self.gateways:
            assert not (gateway.is_alive and gateway.routed.get(key[0]) == key[1]), key

    def step(self) -> None:
        """Let half a second pass."""
        self.now += STEP_S
        self.cluster.step()
        self._build()
        for gateway in self.gateways:
            gateway.step(self.cluster.running)
            if not gateway.is_alive:
                continue
            try:
                self._reconcilers[gateway.name].step()
            except Crash:
                self._reconcilers[gateway.name] = self.new_reconciler(gateway.name)

    def _build(self) -> None:
        for job_id, steps in list(self.cluster.building.items()):
            if steps < self.builder_steps:
                self.cluster.building[job_id] = steps + 1
                self.store.report_progress(job_id, "profiling", steps / self.builder_steps)
            else:
                gate = GateReport(verdict=self.verdict, checks=())
                self.store.built(job_id, f"digest {job_id}", gate)
                del self.cluster.building[job_id]

    def settle(self, steps: int = 60) -> None:
        """Let time pass until no job is active and nothing changes for four steps."""
        quiet = 0
        for _ in range(steps):
            before = (self.store.revision(), dict(self.cluster.running))
            self.step()
            is_same = before == (self.store.revision(), self.cluster.running)
            quiet = quiet + 1 if is_same and not self.store.jobs(active_only=True) else 0
            if quiet == 4:
                return
        raise AssertionError(f"not settled: {self.store.jobs(active_only=True)}")

    @property
    def running(self) -> set[GenerationKey]:
        """The generations with hosts."""
        return set(self.cluster.running)
