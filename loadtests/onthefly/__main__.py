"""Changes the variants of a running service under steady load, and measures what that costs.

    paretoserve up --catalog copy --project examples/fashion_mnist/recipes.yaml
    python -m loadtests.onthefly --catalog copy [--out FILE]

Adds two variants from recipes, replaces one, rolls it back, removes both, and adds one again that
is on disk; then adds and removes it again and again, and compares what the gateway holds. The
service is as before in the end, but for kept generations.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import numpy as np
from rich.console import Console

from loadtests.benchmarks.machine import describe_machine
from loadtests.onthefly.admin import Admin
from loadtests.onthefly.leaks import Holdings, measure_holdings
from loadtests.onthefly.phases import PhaseResult, Timeline, repeat, summarize
from loadtests.steady.client_process import LoadClient, start_load_client
from loadtests.steady.target import ClientSettings, Target, find_target
from loadtests.trials.grid import Grid, show
from loadtests.trials.options import FILE, FOLDER
from variants.catalog.sample_request import sample_path

CAPACITY_CLIENTS: Final = 16
CAPACITY_S: Final = 3.0
FIRST, SECOND = "bench-a", "bench-b"
STAGES: Final = ("queued", "techniques", "recovery", "evaluation", "profiling", "gate", "warming")


@click.command()
@click.option("--catalog", type=FOLDER, default=Path("catalog"), help="Catalog of the service.")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True)
@click.option("--recipe", default="int8", show_default=True, help="Recipe of the project to build.")
@click.option("--rate", type=float, help="Requests per second. [default: half of the capacity]")
@click.option("--deadline-ms", type=float, default=100.0, show_default=True)
@click.option("--seconds", type=float, default=600.0, show_default=True, help="Longest duration.")
@click.option("--rest", type=float, default=10.0, show_default=True, help="Time without a change.")
@click.option("--cycles", type=int, default=20, show_default=True, help="Adds and removes.")
@click.option("--out", type=FILE, help="Also write the tables as Markdown to this file.")
def main(
    catalog: Path,
    url: str,
    recipe: str,
    rate: float | None,
    deadline_ms: float,
    seconds: float,
    rest: float,
    cycles: int,
    out: Path | None,
) -> None:
    """Measure attainment by phase and time by stage while the variants of a service change."""
    admin = Admin(url, (catalog / ".control" / "admin-token").read_text().strip())
    target = find_target(url, ClientSettings())
    timeline = Timeline(admin, target.path, sample_path(catalog).read_bytes())
    with start_load_client() as client:
        rate = rate or _capacity(client, target, deadline_ms) / 2
        arrivals = np.arange(0.0, seconds, 1 / rate)
        client.start(target.load(deadline_ms, seconds, arrivals_s=arrivals))
        _change_variants(timeline, recipe, rest)
        before = measure_holdings(url, target.port)
        repeat(cycles, lambda: _publish(timeline), lambda: _remove(timeline, FIRST))
        timeline.rest("after all cycles", rest)
        after = measure_holdings(url, target.port)
        record = client.result()
    results = summarize(timeline.phases, record, deadline_ms / 1000)
    note = f"{rate:.0f} requests/s, deadline {deadline_ms:g} ms; {describe_machine()}"
    grids = [_phases_grid(results, note), _stages_grid(results), _holdings_grid(before, after)]
    show(grids, Console(), as_markdown=False)
    if out is not None:
        out.write_text("\n\n".join(grid.to_markdown() for grid in grids) + "\n")
    if any(result.failed for result in results):
        sys.exit(1)


def _capacity(client: LoadClient, target: Target, deadline_ms: float) -> float:
    """Return how many requests per second a closed loop gets answered."""
    record = client.run(target.load(deadline_ms, CAPACITY_S, clients=CAPACITY_CLIENTS))
    return float((record.http_status == 200).sum()) / CAPACITY_S


def _change_variants(timeline: Timeline, recipe: str, rest: float) -> None:
    force = {"force": True, "reason": "benchmark"}
    timeline.rest("before", rest)
    for name in (FIRST, SECOND):
        body = {"name": name, "recipe": recipe, **force}
        timeline.change(f"add {name}", "POST", "/variants", body, routed=name)
    body = {"recipe": recipe, **force}
    timeline.change(f"replace {FIRST}", "POST", f"/variants/{FIRST}/replace", body, routed=FIRST)
    timeline.change(f"roll back {FIRST}", "POST", f"/variants/{FIRST}/rollback", {}, routed=FIRST)
    for name in (SECOND, FIRST):
        _remove(timeline, name)
    timeline.rest("after", rest)


def _publish(timeline: Timeline) -> None:
    """Add the newest generation of the first variant, which is on disk."""
    variant = timeline.admin.call("GET", f"/variants/{FIRST}")
    number = max(each["number"] for each in variant["generations"] if each["state"] == "kept")
    body = {"generation": number, "reason": "benchmark"}
    path = f"/variants/{FIRST}/publish"
    timeline.change(f"add {FIRST} from disk", "POST", path, body, routed=FIRST)


def _remove(timeline: Timeline, name: str) -> None:
    timeline.change(f"remove {name}", "DELETE", f"/variants/{name}")


def _phases_grid(results: Sequence[PhaseResult], note: str) -> Grid:
    """Return attainment and failures by phase; phases of the same name are added up."""
    columns = ("phase", "times", "seconds", "first routed, s", "requests", "on time", "refused")
    rows = []
    for name in dict.fromkeys(result.phase.name for result in results):
        same = [result for result in results if result.phase.name == name]
        requests = sum(result.requests for result in same)
        routed = [each.phase.routed_s for each in same if each.phase.routed_s is not None]
        rows.append(
            (
                name,
                str(len(same)),
                f"{sum(each.phase.ended_s - each.phase.started_s for each in same):.1f}",
                f"{np.median(routed):.2f}" if routed else "",
                str(requests),
                f"{sum(each.on_time for each in same) / requests:.3%}" if requests else "",
                str(sum(each.refused for each in same)),
                str(sum(each.unsent for each in same)),
                _failures(same),
            )
        )
    return Grid("Requests while variants change", (*columns, "unsent", "failed"), rows, note)


def _failures(results: Sequence[PhaseResult]) -> str:
    """Return the number of failed requests, and how many had which status."""
    failures = sum((Counter(each.failures) for each in results), Counter[int]())
    total = str(failures.total())
    by_status = ", ".join(f"{count} of status {code}" for code, count in sorted(failures.items()))
    return f"{total} ({by_status})" if failures else total


def _stages_grid(results: Sequence[PhaseResult]) -> Grid:
    builds = [result.phase for result in results if "profiling" in result.phase.stages]
    rows = [
        (phase.name, *(f"{phase.stages.get(stage, 0.0):.2f}" for stage in STAGES))
        for phase in builds
    ]
    return Grid("Seconds by stage", ("job", *STAGES), rows)


def _holdings_grid(before: Holdings, after: Holdings) -> Grid:
    rows = [
        (name.replace("_", " "), f"{getattr(before, name):g}", f"{getattr(after, name):g}")
        for name in Holdings.model_fields
    ]
    return Grid("What the gateway holds", ("", "before the cycles", "after"), rows)


if __name__ == "__main__":
    main()
