"""The command `paretoserve`: each verb calls one function."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click
from rich.text import Text

from paretoserve.commands.analyse import explain, search, sensitivity, sweep
from paretoserve.commands.build import build, check, measure, report
from paretoserve.commands.options import errors
from paretoserve.commands.serve import load, up
from paretoserve.commands.trials import replay, simulate

VERBS: Final = (
    *(build, measure, check, report, sweep, sensitivity, search, explain, up, load),
    *(simulate, replay),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="paretoserve")
def cli() -> None:
    """One trained PyTorch model, served as many: dense, pruned, 2:4-sparse, INT8.

    Each request gets the most accurate variant that meets its deadline and accuracy floor.
    """


for verb in VERBS:
    cli.add_command(verb)


def main() -> None:
    """Run the command; a mistake of the caller's ends in one line, not in a traceback."""
    # A project names its own modules, and they lie where the command is run.
    sys.path.insert(0, str(Path.cwd()))
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except (ValueError, OSError) as error:
        errors.print(Text.assemble(("error:", "bold red"), f" {error}"), soft_wrap=True)
        sys.exit(2)
