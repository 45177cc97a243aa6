"""Description of the machine and of its load, for the notes below tables."""

from __future__ import annotations

import os

from variants.catalog.cpus import available_cpus
from variants.catalog.hardware import hardware


def describe_machine() -> str:
    """Return the processor, the number of CPUs that may be used, and the current load averages."""
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    return f"{hardware(1).processor}, {available_cpus()} CPUs, load average now {load}"
