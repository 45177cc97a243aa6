"""The order in which the strengths of a family are tried: exponential search, then bisection.

A pure function of the outcomes so far. It assumes that a failure at one strength means failure at
every greater one. If that is wrong, it finds an edge that may not be the strongest.
"""

from __future__ import annotations

from collections.abc import Mapping


def next_level(levels: int, passed: Mapping[int, bool]) -> int | None:
    """Return which of the levels 0 to `levels - 1` to try next, or None if the edge is known.

    `passed` maps each level tried to whether it met the criterion. The levels are 0, 1, 3, 7 and so
    on while they pass. After a failure it is the middle between the strongest level that passed and
    the mildest that failed. Of 12 levels at most 7 are tried.
    """
    strongest = max((level for level, is_passed in passed.items() if is_passed), default=-1)
    failed = min((level for level, is_passed in passed.items() if not is_passed), default=None)
    if failed is None:
        return min(max(0, 2 * strongest + 1), levels - 1) if strongest < levels - 1 else None
    if failed - strongest > 1:
        return (strongest + failed) // 2
    return None
