"""Which frames of a clip are kept: by time, spread over the whole clip, in bounded memory."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np


class Frame(NamedTuple):
    """turn: number among the frames due; number: in the clip; time_s: NaN where unknown; image: uint8 [H, W]."""

    turn: int
    number: int
    time_s: float
    image: np.ndarray


class Sample(NamedTuple):
    """Frames of one clip; how many it has in all, how many of those due were damaged, the time from first to last."""

    frames: list[Frame]
    read: int
    damaged: int
    span_s: float


def interval(fps: float, rate_hz: float) -> float:
    """Seconds between frames to keep: the largest whole number of frames that is not longer than 1 / rate_hz.

    That is the rule of the POCUS data set, every int(fps / 3)-th frame (Born et al. 2021), by time. NaN, every frame,
    if fps is NaN; 1 / rate_hz, if frames are further apart than that.
    """
    if math.isnan(fps):
        return math.nan
    frames = math.floor(fps / rate_hz + 1e-6)       # 0.7 / 0.1 is 6.99…
    return (frames or fps / rate_hz) / fps


def sample(frames: Iterable[tuple[float, Callable[[], np.ndarray | None]]], every_s: float, most: int) -> Sample:
    """Go through a clip once, to its end, and decode the frames that are due.

    Due is the first frame at or after each multiple of `every_s`, to within 1 ms (time stamps of webm are no finer), or to
    within half of an interval shorter than 2 ms.
    Whenever more than 4 · most frames are held, every second one goes and the interval doubles: a clip of any length
    fits into memory.

    Args:
        frames: time in s, not falling, and a function that decodes the frame: uint8 [H, W], or None if it is damaged.
        every_s: the interval; NaN: every frame is due.
        most: frames that will be kept in the end (see `spread`).
    """
    kept, last, turn, stride, damaged = [], -math.inf, -1, 1, 0
    number, first, time, early_s = -1, math.nan, math.nan, min(0.001, every_s / 2)
    for number, (time, decode) in enumerate(frames):
        first = time if number == 0 else first
        due = number if math.isnan(every_s) else math.floor((time + early_s) / every_s)
        if due <= last:
            continue
        last, turn = due, turn + 1
        if turn % stride:
            continue
        image = decode()
        if image is None:
            damaged += 1
            continue
        kept.append(Frame(turn, number, time, image))
        if len(kept) > 4 * most:
            stride *= 2
            kept = [frame for frame in kept if frame.turn % stride == 0]
    return Sample(kept, number + 1, damaged, time - first)


def spread(items: list, most: int) -> list:
    """At most `most` items, evenly spread from the first to the last."""
    return [items[place] for place in np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)]
