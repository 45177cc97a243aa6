"""A catalog on disk that is made up: report cards, and nothing that could be served."""

from __future__ import annotations

from pathlib import Path

from tests.variants.catalog import cards
from variants.catalog.hardware import hardware


def write_catalog(folder: Path) -> Path:
    """Write one in which int8 takes a quarter of dense's time, and has 2 points less.

    Dense answers 1,000 samples a second; a batch of 1 takes 4 ms, 8 ms at the 95th percentile.
    """
    key = hardware(1).key
    slow = cards.latency(1, 0.004), cards.latency(64, 0.064)
    quick = cards.latency(1, 0.001), cards.latency(64, 0.016)
    made = cards.catalog(
        {
            "dense": (cards.card(0.9, *slow, key=key),),
            "int8": (cards.card(0.88, *quick, key=key),),
        }
    )
    for name, variant in made.variants.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "variant.json").write_text(variant.model_dump_json())
    (folder / "catalog.json").write_text(made.model.model_dump_json())
    return folder
