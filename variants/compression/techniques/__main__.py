"""Writes what a service knows of the techniques: `python -m variants.compression.techniques`."""

from __future__ import annotations

from variants.catalog.techniques import FILE
from variants.compression.techniques import render_techniques

if __name__ == "__main__":
    FILE.write_bytes(render_techniques())
