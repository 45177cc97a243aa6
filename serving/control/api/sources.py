"""Where a new generation comes from: a recipe that is built, or an artifact that is on disk.

Without a recipe, what has the name of the variant is looked up in this order:

    new artifact in catalog/<name>/ ─▶ kept generation ─▶ recipe of the project file
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serving.control.adoption import adopt_artifact
from serving.control.state import Generation, VariantRecord
from serving.control.store.store import Store
from serving.errors import Conflict, ModelNotFound, NotReady, Unsupported
from variants.catalog import generations
from variants.catalog.catalog import Variant
from variants.catalog.recipe import Project, Recipe
from variants.catalog.storage import Storage


@dataclass(frozen=True)
class ToBuild:
    """A recipe that has to be built."""

    recipe: Recipe


@dataclass(frozen=True)
class OnDisk:
    """A generation that can be published at once."""

    number: int
    recipe: Recipe


@dataclass(frozen=True)
class InCatalog:
    """An artifact in `catalog/<name>/` that is not a generation yet."""

    variant: Variant


class Sources:
    """The catalog, the kept generations and the project file.

    Its methods block. They raise `Conflict` if a file on disk is missing, damaged or invalid.
    """

    def __init__(
        self, store: Store, catalog: Path, project: Path | None, storage: Storage | None = None
    ) -> None:
        """`project` is the project file whose recipes can be named; without one, none is built.

        What is published is copied to `storage`.
        """
        self._store = store
        self._catalog = catalog
        self._project = project
        self._storage = storage

    def recipe_named(self, name: str) -> Recipe:
        """Return a recipe of the project file. Raises `ModelNotFound`, `Unsupported`."""
        recipes = self._recipes()
        if name not in recipes:
            raise ModelNotFound(
                f"the project has no recipe {name!r:.100}; it has {', '.join(recipes)}"
            )
        return recipes[name]

    def check_can_build(self) -> None:
        """Raise `Unsupported` if this service builds nothing."""
        self._recipes()

    def find(self, name: str, record: VariantRecord | None) -> ToBuild | OnDisk | InCatalog:
        """Return what is there under the name of a variant.

        Raises `ModelNotFound` if there is neither an artifact, nor a generation, nor a recipe.
        """
        new = self.new_artifact(name, record)
        if new is not None:
            return new
        kept = former_generation(record)
        if kept is not None:
            return kept
        if self._project is None:
            raise ModelNotFound(
                f"there is neither an artifact nor a generation of {name!r:.100} on disk; send a "
                f"recipe, or name one of {', '.join(self.names()) or 'those that are built'}"
            )
        recipes = self._recipes()
        if name not in recipes:
            known = sorted({*self.names(), *recipes})
            raise ModelNotFound(
                f"there is no artifact, generation or recipe named {name!r:.100}; "
                f"there are {', '.join(known)}; or send a recipe"
            )
        return ToBuild(recipes[name])

    def new_artifact(self, name: str, record: VariantRecord | None) -> InCatalog | None:
        """Return the artifact in the catalog, unless it is one of the variant's generations."""
        if name not in self.names():
            return None
        try:
            variant = generations.source(self._catalog, name)
        except ValueError as error:
            raise Conflict(f"the artifact of {name} cannot be read: {error}") from error
        known = {each.digest for each in record.generations} if record else set()
        return None if generations.digest(variant) in known else InCatalog(variant)

    def adopt(self, name: str, found: InCatalog, actor: str) -> OnDisk:
        """Make an artifact of the catalog a generation."""
        try:
            number = adopt_artifact(self._store, self._catalog, name, actor=actor, publish=False)
        except ValueError as error:
            raise Conflict(f"{error}; build {name} again") from error
        return OnDisk(number, found.variant.recipe)

    def check_files(self, generation: Generation) -> None:
        """Raise `Conflict` if hosts could not load a generation: it names the file.

        Files that are missing or damaged on this node are fetched from the storage, if it has them.
        """
        name, number = generation.variant, generation.number
        try:
            found = generations.verify(self._catalog, name, number)
            if generations.digest(found) != generation.digest:
                folder = generations.folder(self._catalog, name, number)
                raise ValueError(f"{folder} has other files than those that were built")
        except ValueError as error:
            cause = str(error)
            if self._storage is not None:
                try:
                    self._storage.record(name, number)
                    return
                except ValueError as missing:
                    cause = f"{cause}; {missing}"
            raise Conflict(f"{name}@{number} cannot be published: {cause}") from error

    def copy(self, name: str, number: int) -> None:
        """Copy a generation that is on disk to the storage, from which other nodes fetch it.

        Raises `NotReady` if it cannot be copied.
        """
        if self._storage is None or (name, number) not in generations.on_disk(self._catalog):
            return
        try:
            self._storage.upload(self._catalog, name, number)
        except ValueError as error:
            self._store.set_error(name, number, str(error))
            raise NotReady(str(error)) from None

    def names(self) -> list[str]:
        """Return the names of the artifacts in the catalog."""
        return sorted(path.parent.name for path in self._catalog.glob("*/variant.json"))

    def _recipes(self) -> dict[str, Recipe]:
        if self._project is None:
            raise Unsupported(
                "this service builds nothing, because it was started without a project file: "
                "start it with `paretoserve up --project`"
            )
        try:
            return Project.load(self._project).recipes
        except ValueError as error:
            raise Conflict(f"the project file is invalid: {error}") from error


def former_generation(record: VariantRecord | None) -> OnDisk | None:
    """Return the generation that was published last, except for the present one."""
    if record is None:
        return None
    kept = [
        each for each in record.generations if each.state in ("kept", "draining") and each.digest
    ]
    if not kept:
        return None
    newest = max(kept, key=lambda each: (each.published_at or 0.0, each.number))
    return OnDisk(newest.number, newest.recipe)
