"""Which strength to try next: from the mildest up in growing strides, then halving the gap.

A pure function of what has been tried. It assumes that what fails at one strength fails at every
greater one; where that is wrong, it finds an edge, and perhaps not the furthest.
"""

from __future__ import annotations

from collections.abc import Mapping


def next_level(levels: int, held: Mapping[int, bool]) -> int | None:
    """Return which of the levels 0 to `levels - 1` to try next, or None when the edge is known.

    `held` says of each level tried whether what is wanted held there. The strides are 0, 1, 3, 7
    and so on while it holds; once it has failed, the middle between the strongest that held and
    the mildest that failed. Of 12 levels at most 7 are tried.
    """
    strongest = max((level for level, holds in held.items() if holds), default=-1)
    failed = min((level for level, holds in held.items() if not holds), default=None)
    if failed is None:
        return min(max(0, 2 * strongest + 1), levels - 1) if strongest < levels - 1 else None
    if failed - strongest > 1:
        return (strongest + failed) // 2
    return None
