"""The error of a build of which some recipes failed and others are kept."""

from __future__ import annotations

from collections.abc import Mapping

from variants.catalog.catalog import Catalog


class RecipesFailed(ValueError):
    """Some recipes could not be built. All others were built, measured and kept."""

    def __init__(self, failures: Mapping[str, Exception], catalog: Catalog, number: int) -> None:
        self.failures = failures
        """By the name of the recipe, in the order of the project file."""
        self.catalog = catalog
        """The catalog without the variants that failed."""
        lines = [f"  {describe_failure(name, error)}" for name, error in failures.items()]
        super().__init__(
            f"{len(failures)} of {number} recipes could not be built; the catalog holds "
            f"{', '.join(catalog.variants)}\n" + "\n".join(lines)
        )


def describe_failure(name: str, error: Exception) -> str:
    """Return one line with the recipe and the cause."""
    text = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if not isinstance(error, ValueError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if text.startswith(f"{name}: ") else f"{name}: {text}"
