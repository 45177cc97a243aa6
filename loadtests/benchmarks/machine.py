"""Description of the machine and of its load, for the notes below tables."""

from __future__ import annotations

import os

from variants.catalog.hardware import hardware


def describe_machine() -> str:
    """Return the processor, the number of cores and the current load averages."""
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    return f"{hardware(1).processor}, {os.cpu_count()} cores, load average now {load}"
