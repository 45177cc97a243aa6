"""A stationary stream of arrivals at one per unit of time: what every arrival process is made of.

Another rate, constant or not, comes by stretching time: a unit stream, mapped through the inverse
of the integrated rate, has that rate at every moment.
"""

from __future__ import annotations

import math
import sys
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_ARRIVALS: Final = 100_000_000
"""0.8 GB of times; more is a slip of the pen."""

MAX_CV2: Final = 1000.0


def stream(rng: np.random.Generator, cv2: float, length: float) -> npt.NDArray[np.float64]:
    """Return arrivals in [0, `length`), never decreasing, `length` of them on average.

    Gaps are gamma distributed with mean 1 and squared coefficient of variation `cv2`, from 0 (all
    are equal) over 1 (Poisson) to `MAX_CV2`. The first arrival is drawn from the gaps' equilibrium
    distribution (Cox, Renewal Theory, 1962), as if the stream had begun long ago: one that begins
    with a whole gap has (cv2 - 1) / 2 too many.

    Raises `ValueError` if `length` is above `MAX_ARRIVALS`.
    """
    if length > MAX_ARRIVALS:
        raise ValueError(
            f"about {length:,.0f} requests; at most {MAX_ARRIVALS:,} fit, so lower the rate or "
            "the time"
        )
    # A gap that covers a given moment is gamma with a shape larger by 1; the rest of it is uniform.
    now = float(rng.random() * _gaps(rng, cv2, 1, longer=1)[0])
    parts = [np.array([now])]
    while now < length:
        left = length - now
        count = 16 + int(left + 4 * math.sqrt(cv2 * left))  # seldom too few: four deviations more
        parts.append(now + np.cumsum(_gaps(rng, cv2, count)))
        now = float(parts[-1][-1])
    times = np.concatenate(parts)
    return times[: np.searchsorted(times, length)]


def check_cv2(cv2: float) -> None:
    """Raise `ValueError` if no stream has this squared coefficient of variation."""
    if not 0 <= cv2 <= MAX_CV2:
        raise ValueError(
            "cv2, the squared coefficient of variation of the gaps, must be from 0 (equal gaps) "
            f"over 1 (Poisson) to {MAX_CV2:g}, got {cv2:g}"
        )


def _gaps(
    rng: np.random.Generator, cv2: float, count: int, *, longer: int = 0
) -> npt.NDArray[np.float64]:
    if cv2 < sys.float_info.min:  # its inverse could overflow
        return np.ones(count)
    return rng.standard_gamma(1 / cv2 + longer, count) * cv2
