"""The verb `variants` against an admin API over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from paretoserve.main import cli
from tests.serving.control.api.administered import (
    ADMIN_TOKEN,
    READ_TOKEN,
    Administered,
    administered,
)
from tests.serving.protocol.http.sockets import LOOPBACK, listening


@dataclass(frozen=True)
class Terminal:
    """Runs the command against a service."""

    service: Administered
    url: str

    async def run(self, *arguments: str, token: str | None = ADMIN_TOKEN) -> Result:
        environment = {"COLUMNS": "300", "PARETOSERVE_TOKEN": token}
        command = ["variants", arguments[0], "--url", self.url, *arguments[1:]]
        return await asyncio.to_thread(CliRunner().invoke, cli, command, env=environment)

    async def json(self, *arguments: str) -> Any:
        result = await self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def published(self) -> dict[str, int | None]:
        return {each.name: each.published for each in self.service.store.variants()}


@pytest.fixture
async def terminal(tmp_path: Path) -> AsyncIterator[Terminal]:
    async with administered(tmp_path) as service, listening(service.gateway) as listener:
        yield Terminal(service, f"http://{LOOPBACK}:{listener.port}")


DYNAMIC = "[{technique: int8, parameters: {mode: dynamic}}]"


async def test_variants_are_added_replaced_rolled_back_and_removed(terminal: Terminal) -> None:
    async with terminal.service.reconciling():
        added = await terminal.run("add", "tiny", "--recipe", DYNAMIC)
        assert added.exit_code == 0, added.output
        assert "build of tiny@1: succeeded" in added.stdout
        assert terminal.published()["tiny"] == 1
        assert (await terminal.run("replace", "tiny", "--recipe", "named")).exit_code == 0
        assert terminal.published()["tiny"] == 2
        assert (await terminal.run("rollback", "tiny", "--reason", "slow")).exit_code == 0
        assert terminal.published()["tiny"] == 1
        rolled = await terminal.json("rollback", "tiny", "--generation", "2")
        assert (rolled["kind"], rolled["generation"]) == ("publish", 2)
        removed = await terminal.run("remove", "tiny")
        assert "remove of tiny@2: succeeded" in removed.stdout
        assert terminal.published()["tiny"] is None
    shown = await terminal.run("history")
    for text in ("add", "replace", "rollback", "slow", "remove", "ana"):
        assert text in shown.stdout


async def test_the_variants_are_listed_and_shown(terminal: Terminal) -> None:
    listed = await terminal.run("list")
    assert listed.exit_code == 0, listed.output
    (row,) = [line.split() for line in listed.stdout.splitlines() if "int8" in line]
    assert row[:7] == ["int8", "1", "published", "90.00%", "2", "ms", "-"]
    assert [each["name"] for each in (await terminal.json("list"))["variants"]] == ["dense", "int8"]
    shown = await terminal.run("show", "int8")
    assert "accuracy 90.00%" in shown.stdout
    assert "published" in shown.stdout
    assert (await terminal.json("show", "int8"))["report_card"]


@pytest.mark.parametrize("form", ["json", "yaml", "with a key"])
async def test_a_recipe_is_read_from_a_file(terminal: Terminal, tmp_path: Path, form: str) -> None:
    texts = {
        "json": '[{"technique": "int8"}]',
        "yaml": "- technique: int8\n",
        "with a key": "recipe:\n  - technique: int8\n",
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(texts[form])
    job = await terminal.run("add", "tiny", "--recipe", str(file), "--no-wait")
    assert job.exit_code == 0, job.output
    found = await terminal.json("jobs", job.stdout.strip())
    assert found["recipe"] == [{"technique": "int8", "parameters": {}}]


async def test_a_dry_run_prints_what_would_be_done(terminal: Terminal) -> None:
    result = await terminal.run("add", "tiny", "--recipe", "named", "--dry-run")
    assert result.exit_code == 0, result.output
    for text in ("would build: int8", "memory: about", "gate: the accuracy", "time: nothing"):
        assert text in result.stdout
    assert "tiny" not in terminal.published()


async def test_a_job_that_does_not_succeed_ends_with_1(terminal: Terminal) -> None:
    running = asyncio.create_task(terminal.run("add", "tiny", "--recipe", "named"))
    store = terminal.service.store
    while not (jobs := store.jobs(active_only=True)):
        await asyncio.sleep(0.01)
    terminal.service.finish(jobs[0], verdict="fail")
    result = await running
    assert result.exit_code == 1
    assert "rejected" in result.stdout
    assert "it loses 10 points" in result.stdout
    async with terminal.service.reconciling():
        arguments = ("publish", "tiny", "--generation", "1", "--reason", "agreed")
        assert (await terminal.run(*arguments)).exit_code == 0
    assert terminal.published()["tiny"] == 1


async def test_jobs_are_listed_followed_and_cancelled(terminal: Terminal) -> None:
    job = (await terminal.run("add", "tiny", "--recipe", "named", "--no-wait")).stdout.strip()
    assert job in (await terminal.run("jobs", "--active")).stdout
    following = asyncio.create_task(terminal.run("jobs", job, "--follow"))
    terminal.service.finish(terminal.service.store.job(job))
    followed = await following
    assert followed.exit_code == 0, followed.output
    assert followed.stdout.splitlines()[:2] == ["quantized 2 layers", "measured"]
    assert (await terminal.run("jobs", job)).stdout == followed.stdout
    other = (await terminal.run("add", "other", "--recipe", "named", "--no-wait")).stdout.strip()
    assert "cancelled" in (await terminal.run("cancel", other)).stdout
    assert job in (await terminal.run("jobs")).stdout


@pytest.mark.parametrize(
    ("arguments", "token", "message"),
    [
        (("add", "int8"), ADMIN_TOKEN, "served already; replace it"),
        (("show", "none"), ADMIN_TOKEN, "there are dense, int8"),
        (("add", "../etc"), ADMIN_TOKEN, "name"),
        (("remove", "int8"), READ_TOKEN, "may only read"),
        (("list",), "guessed", "the token is not known"),
        (("list",), "two\nlines", "one line of printable ASCII"),
        (("add", "tiny", "--recipe", "{"), ADMIN_TOKEN, "not valid YAML"),
        (("add", "tiny", "--recipe", "none.yaml"), ADMIN_TOKEN, "there is no file none.yaml"),
        (("add", "tiny", "--recipe", "7"), ADMIN_TOKEN, "a recipe is a list of steps"),
        (("jobs", "--follow"), ADMIN_TOKEN, "--follow needs a JOB"),
    ],
)
async def test_a_refused_request_ends_with_2_and_a_reason(
    terminal: Terminal, arguments: tuple[str, ...], token: str, message: str
) -> None:
    result = await terminal.run(*arguments, token=token)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


async def test_the_token_comes_from_a_file_or_from_the_catalog(
    terminal: Terminal, tmp_path: Path
) -> None:
    file = tmp_path / "catalog/.control/admin-token"
    file.parent.mkdir()
    file.write_text(f"{ADMIN_TOKEN}\n")
    for option, path in (("--token-file", file), ("--catalog", tmp_path / "catalog")):
        result = await terminal.run("list", option, str(path), token=None)
        assert result.exit_code == 0, result.output
    result = await terminal.run("list", "--catalog", str(tmp_path), token=None)
    assert result.exit_code == 2
    assert "set PARETOSERVE_TOKEN" in result.stderr


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1", "does not answer"),
        ("127.0.0.1:8000", "--url must be like http://127.0.0.1:8000"),
    ],
)
def test_without_a_service_the_error_says_so(url: str, message: str) -> None:
    environment = {"PARETOSERVE_TOKEN": "token"}
    result = CliRunner().invoke(cli, ["variants", "list", "--url", url], env=environment)
    assert result.exit_code == 2
    assert message in result.stderr
