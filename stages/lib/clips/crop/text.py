"""Text inside the fan: letters that stand still while the tissue moves; they may name a person."""

from collections.abc import Sequence

import cv2
import numpy as np

from stages.lib.clips.fan import Fan

FRAMES = 4  # looked at, spread over the clip
STILL = 25  # grey levels by which a letter may change from frame to frame
CONTRAST, STILL_CONTRAST = 60, 90  # grey levels by which its strokes stand out, in a clip and in a single frame
EDGE_PX = 4  # letters so near to the fan's edge are those around it
ROW = 4  # so many letters side by side, at least, are text: speckle forms rows of two


def found(images: Sequence[np.ndarray], fan: Fan) -> bool:
    """Whether letters stand in a row inside the fan.

    Args:
        images: T x uint8 [H, W], of which none shows something else than the clip.
    """
    left, top, width, height = fan.box
    places = np.unique(np.linspace(0, len(images) - 1, FRAMES).round().astype(int))
    cut = np.stack([images[place][top : top + height, left : left + width] for place in places])
    strokes = cv2.morphologyEx(cut.min(axis=0), cv2.MORPH_TOPHAT, np.ones((max(9, height // 50),) * 2, np.uint8))
    inside = cv2.erode(np.pad(fan.mask, 1), np.ones((2 * EDGE_PX + 1,) * 2, np.uint8))[1:-1, 1:-1] > 0
    ink = inside & (strokes > (CONTRAST if len(cut) > 1 else STILL_CONTRAST)) & (np.ptp(cut, axis=0) < STILL)
    return _longest_row(_letters(ink)) >= ROW


def _letters(ink: np.ndarray) -> list[tuple[float, float, int]]:
    """x and y of the middle, and height, of the areas of the ink, bool [h, w], that have a letter's form, from the left."""
    _, _, boxes, middles = cv2.connectedComponentsWithStats(ink.astype(np.uint8), connectivity=8)
    _, _, width, height, area = boxes[1:].T
    formed = (height >= 6) & (height <= max(12, ink.shape[0] / 10)) & (width >= 2) & (width <= 2 * height)
    formed &= (area >= 8) & (area >= 0.12 * width * height) & (area <= 0.95 * width * height)
    return sorted((x, y, high) for (x, y), high in zip(middles[1:][formed], height[formed], strict=True))


def _longest_row(letters: list[tuple[float, float, int]]) -> int:
    """The number of letters in the longest row: as high as each other, on one line, without a gap between two."""
    longest = 0
    for _, line, size in letters:
        row = [x for x, y, high in letters if abs(y - line) < 0.4 * size and 0.6 < high / size < 1.6]
        gaps = np.diff(row) < 2.2 * size
        runs = np.diff(np.flatnonzero(np.concatenate([[True], ~gaps, [True]])))                   # letters without a gap
        longest = max(longest, runs.max())
    return longest
