"""The verbs `simulate` and `replay` on the command line."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from loadtests.replay.timings import Timings
from loadtests.trials.files import read_outcomes
from loadtests.trials.outcomes import RequestStatus
from loadtests.trials.runs import Trial
from paretoserve.main import cli
from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult
from tests.loadtests.catalogs import write_catalog
from tests.serving.builders import InProcess, in_process, multiply
from tests.serving.protocol.http.sockets import LOOPBACK, listening
from tests.waiting import GIVE_UP_S
from variants.catalog.record import read_record

LAX_LAG = ("--lag-ms", "60000")
"""The tests share their cores, so the delay of their client is not meaningful."""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalog(tmp_path_factory.mktemp("made") / "catalog")


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)], env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("margin", "answered_by"), [("0", "dense 100"), ("0.02", "int8 100"), ("0.01", "dense 100")]
)
def test_simulate_uses_the_accuracy_margin(catalog: Path, margin: str, answered_by: str) -> None:
    result = invoke(
        "simulate", "--catalog", catalog, "--policy", "fifo", "--requests", "50", "--seeds", "1",
        "--no-bound", "--accuracy-margin", margin, "--markdown",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert answered_by in result.stdout


def test_simulate_compares_policies_and_writes_the_outcomes(catalog: Path, tmp_path: Path) -> None:
    result = invoke(
        "simulate", "--catalog", catalog, "--policy", "fastest,fixed", "--policy", "pareto",
        "--requests", "400", "--seeds", "2", "--out", tmp_path, "--markdown",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    table = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in table[2:]] == ["pareto", "fixed", "fastest"]
    assert "int8 100" in table[4]
    assert "per second" in result.stdout
    trial = read_record(Trial, tmp_path / "scores.json")
    by_policy = next(iter(trial.scores.values()))
    assert [len(scores) for scores in by_policy.values()] == [2, 2, 2]
    assert all(run.score.regret is not None and run.score.regret > -1e-6 for run in trial.runs)
    dense_per_s = 64 / 0.064
    assert by_policy["pareto"][0].offered_per_s == pytest.approx(0.95 * dense_per_s, rel=0.3)
    assert by_policy["fastest"][0].mean_accuracy == pytest.approx(0.88)
    written = read_outcomes(tmp_path / "fixed.npz")
    assert written.policy == "fixed"
    assert written.on_time.mean() == by_policy["fixed"][0].attainment
    assert set(written.workload.latencies_s) == {2 * 0.008}, "twice the p95 of dense"


def test_simulate_is_reproducible(catalog: Path) -> None:
    arguments = ("simulate", "--catalog", catalog, "--policy", "pareto", "--requests", "300",
                 "--slow", "2@0.1", "--kill", "int8@0.1+0.1", "--no-bound")  # fmt: skip
    one, other = invoke(*arguments), invoke(*arguments)
    assert one.exit_code == 0, one.output
    assert one.stdout.split("Simulated")[0] == other.stdout.split("Simulated")[0]
    assert "regret" not in one.stdout
    assert "kill int8@0.1+0.1; slow 2@0.1" in one.stdout


def test_simulate_runs_closed_loop_clients_of_a_gateway_that_takes_time(
    catalog: Path, tmp_path: Path
) -> None:
    result = invoke(
        "simulate", "--catalog", catalog, "--policy", "pareto,fifo", "--seeds", "1",
        "--clients", "4", "--seconds", "0.5", "--slo", "latency_ms=200", "--out", tmp_path,
        "--gateway", "request_ms=5,answer_ms=5,refusal_ms=5",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "4 closed-loop clients" in result.stdout
    assert "gateway request_ms=5,answer_ms=5,refusal_ms=5" in " ".join(result.stdout.split())
    (pareto, fifo) = read_record(Trial, tmp_path / "scores.json").runs
    assert pareto.attainable is None
    # An answer takes 10 ms of the gateway. The last one of each client may come after the end.
    assert 80 < pareto.score.offered_per_s < 110
    assert fifo.score.offered_per_s < 110
    assert read_outcomes(tmp_path / "fifo.npz").workload.name == "4 closed-loop clients"


def test_simulate_repeats_refused_requests(catalog: Path) -> None:
    arguments = ("simulate", "--catalog", catalog, "--policy", "pareto", "--seeds", "1",
                 "--load", "60", "--requests", "300", "--slo", "latency_ms=9")  # fmt: skip
    once = invoke(*arguments)
    repeated = invoke(*arguments, "--attempts", "3", "--retry-ms", "10")
    assert "regret" in once.stdout
    assert "regret" not in repeated.stdout
    assert simulated_requests(repeated) > 1.2 * simulated_requests(once)


def simulated_requests(result: Result) -> int:
    """Return the number of requests in the last line of the output."""
    assert result.exit_code == 0, result.output
    return int(result.stdout.split("Simulated ")[1].split()[0].replace(",", ""))


def test_simulate_serves_the_variants_of_the_option(catalog: Path) -> None:
    result = invoke("simulate", "--catalog", catalog, "--variants", "dense", "--policy", "fastest",
                    "--rate", "100", "--requests", "100", "--seeds", "1")  # fmt: skip
    assert "dense 100" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "none"), "no policy 'none'; the policies are pareto, fixed"),
        (("--load", "1", "--rate", "5"), "--load or --rate"),
        (("--seconds", "1", "--requests", "5"), "--seconds or --requests"),
        (("--arrivals", "gamma"), "needs cv2=VALUE"),
        (("--slo", "latency_x=none"), "latency_x must be a number"),
        (("--kill", "int9@1+1"), "no variant 'int9' to kill; the variants are dense, int8"),
        (("--kill", "int8@1"), "such as dense@12+3"),
        (("--kill", "int8@1+0"), "FOR above 0 s"),
        (("--slow", "2"), "such as 2@10"),
        (("--slow", "0.5@1"), "FACTOR must be at least 1"),
        (("--slo", "size=65"), "raise --max-batch"),
        (("--rate", "1", "--seconds", "1e-6"), "no request arrives"),
        (("--variants", "int9"), "no such variant"),
        (("--clients", "2"), "give the gateway a cost per request or refusal"),
        (("--gateway", "request=1"), "unknown key 'request'; the keys are request_ms"),
        (("--variants", "int8"), "give latency_ms"),
        (
            ("--variants", "int8", "--slo", "latency_x=2"),
            "no variant 'dense'; the variants are int8",
        ),
    ],
)
def test_an_error_of_the_caller_is_one_line(
    catalog: Path, arguments: Sequence[str], message: str
) -> None:
    result = invoke("simulate", "--catalog", catalog, *arguments)
    assert isinstance(result.exception, ValueError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


@contextmanager
def serving(make: Callable[[], InProcess]) -> Iterator[str]:
    """Serve in a separate thread with its own event loop; yields the URL."""
    started, ports = threading.Event(), list[int]()
    ended: list[Callable[[], object]] = []

    async def serve() -> None:
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        ended.append(lambda: loop.call_soon_threadsafe(done.set))
        async with listening(make()) as listener:
            ports.append(listener.port)
            started.set()
            await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(GIVE_UP_S)
        yield f"http://{LOOPBACK}:{ports[0]}"
    finally:
        ended[0]()
        thread.join()


def test_replay_reports_the_outcomes_and_writes_batch_timings(
    catalog: Path, tmp_path: Path
) -> None:
    with serving(lambda: in_process(max_queue=1000)) as url:
        result = invoke(
            "replay", url, "--slo", "name=lax,latency_ms=20000", "--slo", "name=pin,variant=int8",
            "--rate", "400", "--seconds", "0.5", "--out", tmp_path, *LAX_LAG, "--markdown",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert "ms late at the median" in result.stdout
        trial = read_record(Trial, tmp_path / "scores.json")
        assert trial.policies == ("pareto live",)
        score = trial.runs[0].score
        assert score.attainment == score.status_shares["answered"] == 1.0
        assert score.classes["pin"].mean_accuracy == pytest.approx(0.88), "as the service reported"
        outcomes = read_outcomes(tmp_path / "pareto-live.npz")
        assert outcomes.batches is not None
        assert outcomes.batches.size.sum() >= len(outcomes.workload) * 0.9
        assert trial.runs[0].calibration is not None
        timings = read_record(Timings, tmp_path / "timings.json")
        assert timings.variants.keys() == {"dense", "int8"}
        batches = [one for sizes in timings.variants.values() for one in sizes.values()]
        assert sum(one.batches for one in batches) == len(outcomes.batches.size)

        compared = invoke(
            "replay", url, "--catalog", catalog, "--requests", "100", "--rate", "400",
            "--compare-simulation", "--timings", tmp_path / "timings.json", *LAX_LAG, "--markdown",
            "--out", tmp_path / "compared",
        )  # fmt: skip
    assert compared.exit_code == 0, compared.output
    both = read_record(Trial, tmp_path / "compared" / "scores.json")
    assert both.policies == ("pareto live", "pareto simulated")
    live, simulated = (run.score for run in both.runs)
    assert live.requests == simulated.requests
    row = next(line for line in compared.stdout.splitlines() if "minus" in line)
    difference = 100 * (live.attainment - simulated.attainment)
    assert float(row.split("|")[2]) == pytest.approx(difference, abs=6e-4)


def test_replay_reports_nothing_if_the_client_itself_was_late() -> None:
    with serving(lambda: in_process()) as url:
        result = invoke("replay", url, "--rate", "100", "--requests", "20",
                        "--slo", "anything", "--lag-ms", "0.000001")  # fmt: skip
    assert result.exit_code == 1
    assert "the client sent 1 % of the requests more than" in result.output
    assert "on time" not in result.output


def test_replay_fails_when_a_request_failed(catalog: Path, tmp_path: Path) -> None:
    calls = itertools.count()

    async def failing(variant: str, requests: Sequence[Arrays]) -> BatchResult[Sequence[Arrays]]:
        if next(calls) % 2 == 0:
            raise RuntimeError("gone")
        return await multiply(variant, requests)

    with serving(lambda: in_process(failing)) as url:
        result = invoke("replay", url, "--rate", "200", "--requests", "60", *LAX_LAG,
                        "--catalog", catalog, "--slo", "anything", "--out", tmp_path)  # fmt: skip
    assert result.exit_code == 1
    failed = np.count_nonzero(
        read_outcomes(tmp_path / "pareto-live.npz").status == RequestStatus.FAILED
    )
    assert failed > 0
    assert f"{failed} requests failed or were lost; the first failure" in result.output
    assert "on time" in result.output, "the outcomes are printed nevertheless"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--compare-simulation",), "give --catalog"),
        (("--timings", "timings.json"), "give that option too"),
    ],
)
def test_replay_names_the_missing_option(arguments: Sequence[str], message: str) -> None:
    result = invoke("replay", f"http://{LOOPBACK}:1", *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_replay_without_a_catalog_needs_a_rate() -> None:
    result = invoke("replay", f"http://{LOOPBACK}:1", "--slo", "latency_ms=5")
    assert isinstance(result.exception, ValueError)
    assert "or give --rate" in str(result.exception)
