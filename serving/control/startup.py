"""What a service does with its state when it starts.

    catalog/<name>/ ─▶ generation of <name>, unless the state has one with the same files

A variant that was rebuilt since the last start becomes a new generation and is served. A variant
that was removed while the service ran stays removed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Final

from serving.control.adoption import adopt_artifact
from serving.control.cluster import GenerationKey
from serving.control.settings import FOLDER, Control
from serving.control.store.database import sqlite_url
from serving.control.store.store import Store
from variants.catalog import generations
from variants.catalog.catalog import Catalog
from variants.catalog.storage import Storage

logger = logging.getLogger(__name__)

DATABASE: Final = "state.db"
"""Name of the database in `FOLDER`."""


def adopt_catalog(
    store: Store,
    folder: Path,
    variants: Collection[str] = (),
    *,
    storage: Storage | None = None,
) -> frozenset[GenerationKey]:
    """Make generations of the variants of a catalog; return the generations not to be served.

    Without `variants`, all of the catalog are served. With `variants`, the others of the catalog
    are not, but those that were added while the service ran still are. All generations on disk are
    copied to `storage`; while it does not answer, nodes that have the files serve them. May be
    called by several processes, and again.

    Raises `ValueError` if the catalog or a file of it is missing or damaged, or if it does not have
    one of `variants`.
    """
    catalog = Catalog.load(folder)
    if unknown := sorted(set(variants) - catalog.variants.keys()):
        known = ", ".join(catalog.variants)
        raise ValueError(f"{folder} has no variant {', '.join(unknown)}; it has {known}")
    excluded = set()
    for name in catalog.variants:
        is_wanted = not variants or name in variants
        number = adopt_artifact(store, folder, name, publish=is_wanted)
        if not is_wanted and store.generation(name, number).state == "published":
            excluded.add((name, number))
    if storage is not None:
        _upload(store, folder, storage)
    return frozenset(excluded)


def _upload(store: Store, folder: Path, storage: Storage) -> None:
    """Copy the generations that are on disk to the storage."""
    on_disk = generations.on_disk(folder)
    for variant in store.variants():
        for each in variant.generations:
            key = (each.variant, each.number)
            if key not in on_disk or each.digest is None or each.state == "deleted":
                continue
            try:
                storage.upload(folder, *key)
            except ValueError as error:
                logger.error(
                    "a generation cannot be copied for other nodes",
                    extra={"variant": key[0], "generation": key[1], "cause": str(error)},
                )


def open_store(control: Control, folder: Path) -> Store:
    """Open the database of the settings, by default the one in the folder of the catalog.

    Raises `ValueError` if it cannot be opened.
    """
    return Store(control.database or sqlite_url(folder / FOLDER / DATABASE))
