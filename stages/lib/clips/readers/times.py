"""The frame rate from time stamps."""

import math
from collections.abc import Sequence

import numpy as np

PLAUSIBLE_HZ = (0.1, 5000)  # frame rates outside are slips of a file's header or time stamps
SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "ms": 1e-3, "msec": 1e-3, "millisecond": 1e-3, "us": 1e-6, "usec": 1e-6,
           "µs": 1e-6, "μs": 1e-6, "microsecond": 1e-6}  # units of time, in s # fmt: skip
LEAP = 10  # so many times as long as most others, a step between two frames is a slip or a pause


def plausible(fps: float) -> bool:
    """Whether a recording can have so many frames a second."""
    return PLAUSIBLE_HZ[0] <= fps <= PLAUSIBLE_HZ[1]


def seconds(unit: str) -> float:
    """What one unit of time is in s, NaN for what is none."""
    unit = unit.strip().lower()
    return SECONDS.get(unit, SECONDS.get(unit.removesuffix("s"), math.nan))


def number(text: str) -> float:
    """A number, or NaN where there is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def frame_rate_hz(steps_s: Sequence[float]) -> float:
    """Frames a second by the steps from frame to frame in s; NaN if none goes forward. Slips do not count."""
    steps = np.asarray(steps_s, float)
    steps = steps[np.isfinite(steps) & (steps > 0)]
    steps = steps[steps <= LEAP * np.median(steps)] if len(steps) else steps
    return 1 / float(steps.mean()) if len(steps) else float("nan")
