"""The verb `variants`: shows and changes the variants of a running service."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import click

from loadtests.trials.options import FILE, FOLDER
from paretoserve.admin.client import AdminClient, read_token
from paretoserve.admin.recipes import read_recipe
from paretoserve.commands.options import DEFAULT_CATALOG
from paretoserve.terminal import console, print_lines

P = ParamSpec("P")


@dataclass(frozen=True)
class Session:
    """The service, and how to print."""

    client: AdminClient
    as_json: bool


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def variants() -> None:
    """Show and change the variants of a running service.

    The token is that of --token-file, of PARETOSERVE_TOKEN, or the one in the service's catalog.
    """


def command(
    function: Callable[Concatenate[Session, P], None],
) -> click.Command:
    """Make a command with the options that all of them have."""

    @wraps(function)
    def run(
        url: str,
        token_file: Path | None,
        catalog: Path | None,
        as_json: bool,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        token = read_token(token_file, catalog or DEFAULT_CATALOG)
        function(Session(AdminClient(url, token), as_json), *args, **kwargs)

    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the service's response."),
        click.option(
            "--catalog", type=FOLDER, help="Folder of the service's catalog. [default: catalog]"
        ),
        click.option("--token-file", type=FILE, help="File with the token."),
        click.option(
            "--url", default="http://127.0.0.1:8000", show_default=True, help="The service."
        ),
    ):
        run = option(run)
    return variants.command(function.__name__.strip("_"))(run)


NAME = click.argument("name")
NO_WAIT = click.option("--no-wait", is_flag=True, help="Return once the job is submitted.")
REASON = click.option("--reason", metavar="TEXT", help="A text for the history.")
LIMIT = click.option(
    "--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="Most entries."
)
RECIPE = click.option(
    "--recipe",
    metavar="RECIPE",
    help="A file, a recipe as YAML or JSON, or the name of one of the project. [default: what is "
    "on disk under NAME, else the project's recipe of that name]",
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Only check and estimate.")
FORCE_GATE = click.option(
    "--force", is_flag=True, help="Publish it whatever the gate finds. Needs --reason."
)


@command
def list_(session: Session) -> None:
    """List all variants."""
    from paretoserve.admin.tables import variants_table

    document = session.client.get("variants")
    _print(session, document, lambda: console.print(variants_table(document["variants"])))


@command
@NAME
def show(session: Session, name: str) -> None:
    """Show the variant NAME: report card, generations, replicas."""
    from paretoserve.admin.tables import variant_report

    document = session.client.get("variants", name)
    _print(session, document, lambda: console.print(variant_report(document)))


@command
@NAME
@RECIPE
@DRY_RUN
@FORCE_GATE
@REASON
@NO_WAIT
def add(
    session: Session,
    name: str,
    recipe: str | None,
    dry_run: bool,
    force: bool,
    reason: str | None,
    no_wait: bool,
) -> None:
    """Add the variant NAME."""
    body = _body(name=name, recipe=read_recipe(recipe), dry_run=dry_run, force=force, reason=reason)
    _finish(session, session.client.post("variants", body=body, key=_key()), no_wait)


@command
@NAME
@RECIPE
@DRY_RUN
@FORCE_GATE
@REASON
@NO_WAIT
def replace(
    session: Session,
    name: str,
    recipe: str | None,
    dry_run: bool,
    force: bool,
    reason: str | None,
    no_wait: bool,
) -> None:
    """Replace the variant NAME by a new generation."""
    body = _body(recipe=read_recipe(recipe), dry_run=dry_run, force=force, reason=reason)
    result = session.client.post("variants", name, "replace", body=body, key=_key())
    _finish(session, result, no_wait)


@command
@NAME
@click.option("--generation", type=click.IntRange(min=1), help="[default: the former one]")
@REASON
@NO_WAIT
def rollback(
    session: Session, name: str, generation: int | None, reason: str | None, no_wait: bool
) -> None:
    """Publish a former generation of the variant NAME."""
    body = _body(generation=generation, reason=reason)
    result = session.client.post("variants", name, "rollback", body=body, key=_key())
    _finish(session, result, no_wait)


@command
@NAME
@click.option("--force", is_flag=True, help="Also the last one that meets the default SLO.")
@REASON
@NO_WAIT
def remove(session: Session, name: str, force: bool, reason: str | None, no_wait: bool) -> None:
    """Remove the variant NAME. Its generations stay on disk."""
    result = session.client.delete("variants", name, force=force or None, reason=reason, key=_key())
    _finish(session, result, no_wait)


@command
@NAME
@click.option("--generation", type=click.IntRange(min=1), required=True)
@click.option("--reason", metavar="TEXT", required=True, help="Why, for the history.")
@NO_WAIT
def publish(session: Session, name: str, generation: int, reason: str, no_wait: bool) -> None:
    """Publish a generation of the variant NAME by hand."""
    body = _body(generation=generation, reason=reason)
    result = session.client.post("variants", name, "publish", body=body, key=_key())
    _finish(session, result, no_wait)


@command
@LIMIT
def history(session: Session, limit: int) -> None:
    """Show who did what, and when."""
    from paretoserve.admin.tables import history_table

    document = session.client.get("history", limit=limit)
    _print(session, document, lambda: console.print(history_table(document["entries"])))


@command
@click.argument("job", required=False)
@click.option("--active", is_flag=True, help="Only jobs in progress.")
@click.option("--follow", is_flag=True, help="Print the log of JOB until it ends.")
@LIMIT
def jobs(session: Session, job: str | None, active: bool, follow: bool, limit: int) -> None:
    """Show the jobs, or JOB with its log."""
    from paretoserve.admin.tables import jobs_table

    if job is None:
        if follow:
            raise click.UsageError("--follow needs a JOB.")
        document = session.client.get("jobs", active=active or None, limit=limit)
        _print(session, document, lambda: console.print(jobs_table(document["jobs"])))
        return
    found = session.client.get("jobs", job)
    if not follow:
        log = session.client.get("jobs", job, "log")
        _print(session, {**found, "log": log["lines"]}, lambda: _print_job(found, log))
        return
    _follow_log(session, found)


@command
@click.argument("job")
@NO_WAIT
def cancel(session: Session, job: str, no_wait: bool) -> None:
    """Cancel a job."""
    result = session.client.post("jobs", job, "cancel")
    if not no_wait:
        *_, result = session.client.follow(result)
    _print(session, result, lambda: _print_job(result))


def _finish(session: Session, result: dict[str, Any], no_wait: bool) -> None:
    """Print a preview, or follow a job; exit with 1 if it does not succeed."""
    from paretoserve.admin.progress import show_progress
    from paretoserve.admin.tables import preview_lines

    if "status" not in result:
        _print(session, result, lambda: print_lines(preview_lines(result)))
        return
    if no_wait:
        _print(session, result, lambda: print_lines([result["id"]]))
        return
    job = dict(show_progress(session.client.follow(result)))
    _print(session, job, lambda: _print_job(job))
    if job["status"] != "succeeded":
        sys.exit(1)


def _follow_log(session: Session, job: dict[str, Any]) -> None:
    line = 0
    for current in session.client.follow(job):
        job = current
        for each in session.client.get("jobs", job["id"], "log", after=line)["lines"]:
            line = each["number"]
            _print(session, each, partial(print_lines, [each["text"]]))
    _print(session, job, lambda: _print_job(job))
    if job["status"] != "succeeded":
        sys.exit(1)


def _print(session: Session, document: Any, show_table: Callable[[], None]) -> None:
    """Print the document, or call `show_table`."""
    if session.as_json:
        click.echo(json.dumps(document))
    else:
        show_table()


def _print_job(job: dict[str, Any], log: dict[str, Any] | None = None) -> None:
    from paretoserve.admin.tables import job_line

    lines = [each["text"] for each in log["lines"]] if log else []
    print_lines([*lines, job_line(job)])


def _body(**fields: object) -> dict[str, object]:
    """Return the fields that are set."""
    return {name: value for name, value in fields.items() if value not in (None, False)}


def _key() -> str:
    """Return a new idempotency key: a request that arrives twice makes one job."""
    return uuid.uuid4().hex
