"""Makes an artifact of the catalog a generation: its files and its row appear together.

    catalog/<name>/ ─▶ verified draft ─▶ transaction: number, files renamed into place, row

The files are in place before the transaction commits. A process that is killed between the two
leaves files under a number that no generation has yet; the next one with this number replaces them.
"""

from __future__ import annotations

from pathlib import Path

from serving.control.store.store import Store
from serving.control.store.transitions import SYSTEM
from serving.errors import ModelNotFound
from variants.catalog import generations


def adopt_artifact(
    store: Store, catalog: Path, name: str, *, actor: str = SYSTEM, publish: bool = True
) -> int:
    """Return the generation with the files in `catalog/<name>/`; add one if there is none.

    The files of one that is there already are repaired. See `Store.adopt` for `publish`. Raises
    `ValueError` with the file that is missing or damaged.
    """
    digest = generations.digest(generations.source(catalog, name))
    number = _known(store, name, digest)
    if number is None:
        with generations.draft(catalog, name) as draft:

            def place(new: int) -> None:
                generations.publish_draft(draft.folder, catalog, name, new)

            return store.adopt(
                name,
                generations.digest(draft.variant),
                draft.variant.recipe,
                actor,
                publish=publish,
                before_commit=place,
            )
    if store.generation(name, number).state != "deleted":
        generations.adopt(catalog, name, number)
    return number


def _known(store: Store, name: str, digest: str) -> int | None:
    """Return the newest generation with these files, if any."""
    try:
        record = store.variant(name)
    except ModelNotFound:
        return None
    return max((each.number for each in record.generations if each.digest == digest), default=None)
