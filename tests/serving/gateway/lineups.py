"""A gateway whose lineup changes, with real hosts of several generations, without Ray."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from serving.control.state import Lineup, ReplicaReport
from serving.gateway.description import HostDescription
from serving.gateway.gateway import Gateway
from serving.gateway.local_hosts import LoadedGeneration
from serving.gateway.settings import Settings
from serving.link.host import HostSocket
from tests.serving.gateway.two_inputs import answers
from tests.serving.link.hosts import running_host
from tests.waiting import until
from variants.catalog.catalog import Catalog, Interval, Variant
from variants.catalog.device import PROVIDERS
from variants.catalog.generations import digest

Run = Callable[[Any], Mapping[str, Any]]
Key = tuple[str, int]

FREE: dict[str, Any] = {"http": {"port": 0}, "grpc": {"port": 0}, "drain_s": 60.0}


class LineupRegistry:
    """The hosts of each generation, in the place of Serve."""

    def __init__(self) -> None:
        self.hosts: dict[Key, list[HostSocket]] = {}
        self.failures: dict[Key, str] = {}
        self.digests: dict[str, str] = {}
        """Digests of the files that generations have loaded, by variant."""

    async def list_apps(self) -> dict[Key, str]:
        return {key: f"{key[0]}@{key[1]}" for key in {**self.hosts, **self.failures}}

    async def describe(self, app: str) -> list[HostDescription]:
        name, _, number = app.partition("@")
        hosts = self.hosts[name, int(number)]
        digest = self.digests[name]
        return [
            HostDescription(host.address, 1, 1_000, None, PROVIDERS["cpu"], digest, served_for_s=0)
            for host in hosts
        ]

    async def failure(self, app: str) -> str | None:
        name, _, number = app.partition("@")
        return self.failures.get((name, int(number)))


class ChangingGateway:
    """A gateway with its registry; `serve` changes the lineup."""

    def __init__(self, catalog: Path, stack: ExitStack, **settings: Any) -> None:
        self._records = Catalog.load(catalog).variants
        self._stack = stack
        self._revision = 0
        self.registry = LineupRegistry()
        coarse = digest(self._records["coarse"])
        self.registry.digests = defaultdict(lambda: coarse)
        self.registry.digests |= {name: digest(each) for name, each in self._records.items()}
        self.gateway = Gateway(
            Settings.model_validate({"catalog": catalog, **FREE, **settings}),
            self.registry,
            serves_catalog=False,
            load=self._load,
        )
        self.runs: dict[Key, Run] = {}
        """What generations compute that the gateway loads into its own process."""
        self.load_errors: dict[Key, str] = {}
        """Why generations cannot be loaded there."""
        self.loads: list[Key] = []
        """The generations that were loaded there, or could not be."""
        self.accuracies: dict[Key, float] = {}
        """Accuracies of generations that differ from those of the catalog."""

    def start_host(self, variant: str, generation: int, run: Run | None = None) -> HostSocket:
        """Start a host of a generation. By default it computes what the variant computes."""

        def compute(arrays: Any) -> Mapping[str, Any]:
            return answers(variant, arrays)

        host = self._stack.enter_context(running_host(run or compute))
        self.registry.hosts.setdefault((variant, generation), []).append(host)
        return host

    def _load(self, variant: str, generation: int) -> LoadedGeneration:
        key = (variant, generation)
        self.loads.append(key)
        if key in self.load_errors:
            raise ValueError(self.load_errors[key])
        run = self.runs.get(key, partial(answers, variant))
        return LoadedGeneration(run, PROVIDERS["cpu"], self.registry.digests[variant])

    def record(self, variant: str, generation: int) -> Variant:
        """Return the record of a generation."""
        record = self._records.get(variant) or self._records["coarse"].model_copy(
            update={"name": variant}
        )
        value = self.accuracies.get((variant, generation))
        if value is None:
            return record
        drop = value - self._records["dense"].report_cards[0].accuracy.value
        card = record.report_cards[0].model_copy(
            update={
                "accuracy": Interval(value=value, low=value, high=value),
                "accuracy_difference": Interval(value=drop, low=drop, high=drop),
            }
        )
        return record.model_copy(update={"report_cards": (card,)})

    def serve(self, published: dict[str, int], warming: dict[str, int] | None = None) -> None:
        """Change the lineup."""
        self._revision += 1
        lineup = Lineup(revision=self._revision, published=published, warming=warming or {})
        keys = [*published.items(), *(warming or {}).items()]
        self.gateway.update(lineup, {key: self.record(*key) for key in keys})

    def report(self, variant: str, generation: int) -> ReplicaReport | None:
        """Return the report on a generation, if there is one."""
        reports = [
            each
            for each in self.gateway.reports()
            if (each.variant, each.generation) == (variant, generation)
        ]
        assert len(reports) < 2
        return reports[0] if reports else None

    def state(self, variant: str, generation: int) -> str | None:
        """Return the state of a generation, None without a report."""
        report = self.report(variant, generation)
        return report.state if report else None

    async def becomes(self, variant: str, generation: int, state: str | None) -> None:
        """Wait until a generation has this state."""
        await until(lambda: self.state(variant, generation) == state)


@asynccontextmanager
async def changing_gateway(catalog: Path, **settings: Any) -> AsyncIterator[ChangingGateway]:
    """Run a gateway that serves generation 1 of `dense` and `coarse`."""
    with ExitStack() as stack:
        changing = ChangingGateway(catalog, stack, **settings)
        for variant in ("dense", "coarse"):
            changing.start_host(variant, 1)
        await changing.gateway.start()
        try:
            assert not changing.gateway.is_ready, "it is ready without variants"
            changing.serve({"dense": 1, "coarse": 1})
            await until(lambda: changing.gateway.is_ready)
            yield changing
        finally:
            await changing.gateway.close()
