"""The command `paretoserve`. Each verb calls one function."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click
from rich.text import Text

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
def cli() -> None:
    """Serve one trained PyTorch model as many variants: dense, pruned, 2:4-sparse, INT8.

    Each request is answered by the most accurate variant that meets its deadline and its accuracy
    floor.
    """


for verb in VERBS:
    cli.add_command(verb)


def main() -> None:
    """Run the command. An error of the caller is printed as one line, without a traceback."""
    # A project names its own modules, which lie in the folder where the command runs.
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
