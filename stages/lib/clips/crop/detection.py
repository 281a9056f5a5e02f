"""Find the fan of a clip from what moves, what is bright, and what the screen around it looks like."""

from collections.abc import Sequence

import cv2
import numpy as np

from stages.lib.clips.crop import pictures, scenes
from stages.lib.clips.fan import DARK, Fan

STILL = 1.5  # standard deviation over time, in grey values, up to which a pixel counts as static
SIDE_PX = 160  # the search works on frames shrunk to this long side, on which strokes of text are 1 to 2 px wide
FRAMES = 16  # and on this many frames, spread over the clip


def find(frames: Sequence[np.ndarray]) -> Fan:
    """Find the fan from what moves and what is bright.

    Frames that show something else, such as a title slide, are ignored. What differs from the screen's background is a
    candidate; opening removes text and scales. In a moving clip the moving areas are the fan (`fan`), in a still one the large
    areas (`bright`). If they make up less than 5 % of the picture, the whole picture is kept (`full`). The mask is the convex
    hull: shadows inside the fan stay; ticks and letters beside a convex fan go.

    Args:
        frames: T x uint8 [H, W], all of one size.

    Returns:
        The fan. `uncertain` says why the crop may be wrong: nothing was found, or several pictures share the screen.
    """
    height, width = frames[0].shape
    odd = scenes.odd(frames)
    usual = [frame for number, frame in enumerate(frames) if number not in odd]
    small = _small(usual)                                                       # T x h x w
    lit = small[small.max(axis=(1, 2)) > DARK].astype(np.float32)
    if len(lit):
        moving = lit.std(axis=0) > STILL
        foreground = _foreground(lit, moving)
        region, doubt = _region(foreground, moving)
        if region.mean() > 0.05:
            kind = "bright" if _still(foreground, moving) else "fan"
            return _hull(kind, region, (height, width))._replace(uncertain=doubt, odd=odd)
    everything = Fan("full", (0, 0, width, height), np.full((height, width), 255, np.uint8))
    return everything._replace(uncertain="no fan found: nothing large moves or is bright", odd=odd)


def _still(foreground: np.ndarray, moving: np.ndarray) -> bool:
    return (moving & foreground).mean() < 0.02


def _region(foreground: np.ndarray, moving: np.ndarray) -> tuple[np.ndarray, str]:
    """The areas of the foreground [h, w] that make up the fan, bool [h, w], and the doubt about them."""
    still = _still(foreground, moving)
    edge = foreground if still else moving & foreground
    areas = _areas(foreground, edge)
    weight = np.array([(area if still else area & moving).sum() for area in areas])
    kept = [areas[place] for place in np.flatnonzero(weight > (0.3 if still else 0.01) * weight.max(initial=1))]
    pieces = [piece for area in kept for piece in pictures.split(area, foreground)]
    pieces = [piece for piece in pieces if (piece & edge).sum() >= 0.1 * piece.sum()]           # not the frozen half of two
    return pictures.select(pieces) if pieces else (np.zeros_like(foreground), "")


def _small(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Up to FRAMES frames, spread over the clip, shrunk to SIDE_PX: uint8 [T, h, w]."""
    height, width = frames[0].shape
    scale = min(1.0, SIDE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    chosen = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, FRAMES).astype(int))]
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in chosen])


def _foreground(lit: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Where the frames [T, h, w] differ from the screen's background: bool [h, w].

    The background is black, or has the grey value of a place at the border that is even and static. A grey screen or bar counts
    only as far as it reaches from the picture's border without a gap: tissue of the same grey value inside the fan stays.
    """
    peak, low = lit.max(axis=0), lit.min(axis=0)
    levels = _border_levels(peak, moving) if moving.any() else _screen_level(peak)
    dark = min((level for level in levels if level <= 2 * DARK), default=0) if moving.any() else 0
    foreground = peak > DARK + dark
    for level in levels:
        if level > DARK + dark:
            screen = (peak <= level + DARK) & (low >= level - 2 * DARK) & ~moving
            foreground &= ~_from_border(screen)
    return foreground


def _border_levels(peak: np.ndarray, moving: np.ndarray) -> list[float]:
    """Grey values of the picture's corners [h, w], and of the middles of its sides, that are even and static.

    Of the middles only if both have the same value: the side of a fan that runs out of the picture may be as even.
    """
    side, middle = max(2, min(peak.shape) // 20), peak.shape[0] // 2
    ends = (slice(None, side), slice(-side, None))
    places = [(y, x) for y in (*ends, slice(middle, middle + side)) for x in ends]
    *corners, left, right = [peak[place].max() if np.ptp(peak[place]) <= DARK and not moving[place].any() else None
                             for place in places]
    corners += [left] if None not in (left, right) and abs(left - right) <= DARK else []
    return [level for level in corners if level is not None]


def _screen_level(still: np.ndarray) -> list[float]:
    """The grey value of a still picture [h, w] whose four corners are even and alike: tissue is not."""
    side = max(2, min(still.shape) // 20)
    corners = np.stack([still[y, x] for y in (slice(side), slice(-side, None)) for x in (slice(side), slice(-side, None))])
    return [corners.max()] if np.ptp(corners) <= DARK else []


def _from_border(area: np.ndarray) -> np.ndarray:
    """The parts of an area, bool [h, w], that touch the picture's border."""
    label = cv2.connectedComponents(area.astype(np.uint8), connectivity=4)[1]
    border = np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]])
    return np.isin(label, border[border > 0])


def _areas(bright: np.ndarray, edge: np.ndarray) -> list[np.ndarray]:
    """The connected bright areas, bool [h, w] each, without their thin parts; rounded corners come back where `edge` is set."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    # a fan that runs out of the picture goes on beyond it
    bright, edge = (np.pad(area.astype(np.uint8), 8, mode="edge") for area in (bright, edge))
    opened = cv2.morphologyEx(cv2.morphologyEx(bright, cv2.MORPH_CLOSE, np.ones((3, 3))), cv2.MORPH_OPEN, kernel)
    count, label = cv2.connectedComponents((opened | cv2.dilate(opened, kernel) & edge)[8:-8, 8:-8])
    return [label == number for number in range(1, count)]


def _hull(kind: str, region: np.ndarray, shape: tuple[int, int]) -> Fan:
    """The convex hull of the region [h, w], found on small frames, as a box and mask of frames of `shape`."""
    height, width = shape
    rows = np.flatnonzero(region.any(axis=1))
    # the ends of the rows have the hull of the whole region
    columns = np.concatenate([region[rows].argmax(axis=1), region.shape[1] - 1 - region[rows, ::-1].argmax(axis=1)])
    rows = np.concatenate([rows, rows])
    # a small pixel covers a square of the full frame: its four corners count
    corners = [np.stack([columns + right, rows + down], axis=1) for right in (0, 1) for down in (0, 1)]
    points = np.concatenate(corners) * [width / region.shape[1], height / region.shape[0]]
    mask = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(points).astype(np.int32)), 255)
    left, top, wide, high = cv2.boundingRect(mask)
    return Fan(kind, (left, top, wide, high), mask[top : top + high, left : left + wide])
