"""The option `--recipe`: a file, a recipe as YAML or JSON, or a name."""

from __future__ import annotations

from pathlib import Path

import click

from variants.catalog.document import Document


def read_recipe(text: str | None) -> object:
    """Return what `--recipe` means: a list of steps, a name, or None.

    Raises `click.UsageError` with what would be right.
    """
    if text is None:
        return None
    path = Path(text)
    is_file = len(text) < 4096 and "\n" not in text and path.is_file()
    if not is_file and text.endswith((".yaml", ".yml", ".json")):
        raise click.UsageError(f"there is no file {text}")
    content = path.read_text() if is_file else text
    try:
        recipe = Document(content).content
    except ValueError as error:
        raise click.UsageError(f"{path if is_file else '--recipe'}: {error}") from None
    if isinstance(recipe, dict) and set(recipe) == {"recipe"}:
        recipe = recipe["recipe"]
    if isinstance(recipe, list) or (isinstance(recipe, str) and not is_file):
        return recipe
    raise click.UsageError(
        "a recipe is a list of steps, such as [{technique: int8, parameters: {mode: dynamic}}], "
        "or the name of a recipe of the service's project file"
    )
