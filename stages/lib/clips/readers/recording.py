"""What every reader returns: a clip whose frames can be gone through, and what its file says about it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

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
        bits: of each value in use, where the file says so and it matters.
        damaged: frames that could not be made out so far: those that a reader never yields, and those whose decoder fails.
        untimed: frames so far whose time stamp is missing or impossible; leaps: those whose time stamp leaps by a minute.
        names: file name of each frame, where a clip is a folder of images.
        files: other files that hold its pixels.
        shape: height and width of a frame as delivered, once one was decoded.
        notes: sentences for the user about what was found and not believed.
    """

    frames: Callable[[], Frames]
    fps: float = math.nan
    timed: bool = False
    aspect: float = 1.0
    mm_per_px: float = math.nan
    region: tuple[int, int, int, int] | None = None
    burned_in: bool = False
    bits: int | None = None
    damaged: int = 0
    untimed: int = 0
    leaps: int = 0
    names: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    shape: tuple[int, int] | None = None
    notes: list[str] = field(default_factory=list)
