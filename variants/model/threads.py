"""The threads of torch, which counts the CPUs of the affinity mask but not a quota."""

from __future__ import annotations

import torch

from variants.catalog.cpus import available_cpus


def limit_threads() -> None:
    """Let torch use no more threads in this process than `available_cpus()`."""
    most = available_cpus()
    if torch.get_num_threads() > most:
        torch.set_num_threads(most)
