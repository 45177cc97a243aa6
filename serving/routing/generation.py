"""Routing keys: the names by which routing knows the generations of the variants.

    variant `int8`, generation 2  ─▶  `int8@2`

A key stands for one artifact, and never for another. So latencies, queued requests and counts of
one generation cannot pass to the next one of the same name. A name without a generation is a valid
key too; simulations use the names of variants.
"""

from __future__ import annotations


def generation_key(variant: str, generation: int) -> str:
    """Return the routing key of a generation. Names of variants contain no `@`."""
    return f"{variant}@{generation}"


def variant_name(key: str) -> str:
    """Return the name of the variant of a routing key."""
    return key.partition("@")[0]
