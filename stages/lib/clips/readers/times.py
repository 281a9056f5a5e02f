"""The frame rate from time stamps."""

from collections.abc import Sequence

import numpy as np

PLAUSIBLE_HZ = (0.1, 5000)  # frame rates outside are slips of a file's header or time stamps
LEAP = 10  # so many times as long as most others, a step between two frames is a slip or a pause


def plausible(fps: float) -> bool:
    """Whether a recording can have so many frames a second."""
    return PLAUSIBLE_HZ[0] <= fps <= PLAUSIBLE_HZ[1]


def frame_rate_hz(steps_s: Sequence[float]) -> float:
    """Frames a second by the steps from frame to frame in s; NaN if none goes forward. Slips do not count."""
    steps = np.asarray(steps_s, float)
    steps = steps[np.isfinite(steps) & (steps > 0)]
    steps = steps[steps <= LEAP * np.median(steps)] if len(steps) else steps
    return 1 / float(steps.mean()) if len(steps) else float("nan")
