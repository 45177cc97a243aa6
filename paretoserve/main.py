"""The command `paretoserve`. Each verb calls one function."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Final

import click
from rich.text import Text

from paretoserve.api import BuildFailed
from paretoserve.commands.analyse import explain, search, sensitivity, sweep
from paretoserve.commands.build import build, check, measure, report
from paretoserve.commands.serve import load, up
from paretoserve.commands.trials import replay, simulate
from paretoserve.commands.variants import variants
from paretoserve.terminal import errors

VERBS: Final = (
    *(build, measure, check, report, sweep, sensitivity, search, explain, up, load),
    *(variants, simulate, replay),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="paretoserve")
@click.option("--debug", is_flag=True, help="Print the traceback of an error, too.")
def cli(debug: bool) -> None:
    """Serve one trained PyTorch model as many variants: dense, pruned, 2:4-sparse, INT8.

    Each request is answered by the most accurate variant that meets its deadline and its accuracy
    floor.
    """


for verb in VERBS:
    cli.add_command(verb)


def main() -> None:
    """Run the command. An error is printed without a traceback, unless `--debug` asks for it."""
    # A project names its own modules, which lie in the folder where the command runs.
    sys.path.insert(0, str(Path.cwd()))
    arguments = sys.argv[1:]
    # For the person who repeats a command, the end of the line is as good a place.
    is_debug = "--debug" in arguments
    try:
        rest = [argument for argument in arguments if argument != "--debug"]
        cli(["--debug", *rest] if is_debug else rest, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except Exception as error:
        if is_debug:
            _print_tracebacks(error)
        _print_error(error)
        sys.exit(2)


def _print_error(error: Exception) -> None:
    """Print an error; one that is not of the caller with its class, and with what helps."""
    text = str(error)
    if not isinstance(error, (ValueError, OSError)):
        text = f"{type(error).__name__}: {text}; --debug prints where it was raised"
    errors.print(Text.assemble(("error:", "bold red"), f" {text}"), soft_wrap=True)


def _print_tracebacks(error: Exception) -> None:
    """Print the traceback of an error, or those of the recipes that failed."""
    failures = error.failures.values() if isinstance(error, BuildFailed) else (error,)
    for failure in failures:
        traceback.print_exception(failure)
