"""What every reader returns: a clip whose frames can be gone through, and what its file says about it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

Frames = Iterator[tuple[float, Callable[[], np.ndarray | None]]]


class Unreadable(ValueError):
    """The clip cannot be read; the message is the sentence for the user."""


@dataclass
class Recording:
    """One clip.

    Attributes:
        frames: starts anew at each call and yields, frame by frame, the time stamp in s (NaN where there is none) and a
            function that decodes the frame: [H, W] uint8, uint16 or float32, or None if the frame is damaged. The function
            must be called before the next frame is asked for.
        fps: frame rate that the file states, NaN if it states none.
        timed: whether the frames follow each other at an even pace, stated or not, as in a video file.
        aspect: width of a pixel over its height.
        mm_per_px: height of a pixel in mm, NaN if unknown.
        region: left, top, width, height in px of the picture of tissue, where the file states it.
        burned_in: whether the file says that names or dates are written into its pixels.
        damaged: frames that no decoder could make out so far; the reader counts them while `frames` runs.
        names: file name of each frame, where a clip is a folder of images.
        notes: sentences for the user about what was found and not believed.
    """

    frames: Callable[[], Frames]
    fps: float = math.nan
    timed: bool = False
    aspect: float = 1.0
    mm_per_px: float = math.nan
    region: tuple[int, int, int, int] | None = None
    burned_in: bool = False
    damaged: int = 0
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
