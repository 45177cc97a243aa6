"""A stationary renewal process with one arrival per unit of time, the base of all arrivals.

To get any other rate, constant or not, map the arrival times through the inverse of the integrated
rate.
"""

from __future__ import annotations

import math
import sys
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_ARRIVALS: Final = 100_000_000
"""Maximum expected arrivals of a stream, 0.8 GB of times; more is likely a typing error."""

MAX_CV2: Final = 1000.0
"""Maximum squared coefficient of variation of the gaps."""


def draw_stream(rng: np.random.Generator, cv2: float, length: float) -> npt.NDArray[np.float64]:
    """Return arrival times in [0, `length`), in ascending order, `length` of them on average.

    Gaps are gamma distributed with mean 1 and squared coefficient of variation `cv2`, from 0 (equal
    gaps) over 1 (Poisson) to `MAX_CV2`. The first arrival is drawn from the equilibrium
    distribution of the gaps (Cox, Renewal Theory, 1962), so that the process is stationary; a first
    gap from the distribution of the other gaps would add (cv2 - 1) / 2 arrivals on average.

    Raises ValueError if `length` is above `MAX_ARRIVALS`.
    """
    if length > MAX_ARRIVALS:
        raise ValueError(
            f"about {length:,.0f} requests exceed the maximum of {MAX_ARRIVALS:,}; lower the rate "
            "or the duration"
        )
    # The gap at a given time is gamma distributed with a shape larger by 1, and the part of it
    # after that time is uniform.
    now = float(rng.random() * _draw_gaps(rng, cv2, 1, longer=1)[0])
    parts = [np.array([now])]
    while now < length:
        left = length - now
        count = 16 + int(
            left + 4 * math.sqrt(cv2 * left)
        )  # 4 standard deviations more than expected
        parts.append(now + np.cumsum(_draw_gaps(rng, cv2, count)))
        now = float(parts[-1][-1])
    times = np.concatenate(parts)
    return times[: np.searchsorted(times, length)]


def check_cv2(cv2: float) -> None:
    """Raise ValueError if `cv2` is not in [0, `MAX_CV2`]."""
    if not 0 <= cv2 <= MAX_CV2:
        raise ValueError(
            "cv2, the squared coefficient of variation of the gaps, must be from 0 (equal gaps) "
            f"over 1 (Poisson) to {MAX_CV2:g}, got {cv2:g}"
        )


def _draw_gaps(
    rng: np.random.Generator, cv2: float, count: int, *, longer: int = 0
) -> npt.NDArray[np.float64]:
    if cv2 < sys.float_info.min:  # the inverse could overflow
        return np.ones(count)
    return rng.standard_gamma(1 / cv2 + longer, count) * cv2
