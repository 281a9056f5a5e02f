"""The fan: the part of a frame that shows tissue, apart from text, scales and logos around it."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

DARK = 6  # grey values up to here count as black: compression leaves 0 to 6 in black areas, a fan's empty depth has 8
STILL = 1.5  # standard deviation over time, in grey values, up to which a pixel counts as static
SIDE_PX = 160  # the search works on frames shrunk to this long side, on which strokes of text are 1 to 2 px wide
FRAMES = 16  # and on this many frames, spread over the clip
ANGLES = np.linspace(0.01, 1.2, 60)  # half openings tried for a probe's geometry, in radians; the first stands for linear
FACES = np.linspace(0.05, 1, 20)  # half widths tried for the probe's face, as fractions of the fan's
GRID = 40  # on a picture of this side
OVERLAP = 0.93  # intersection over union with the mask, from which on the geometry counts as known


class Fan(NamedTuple):
    """kind `fan`, `bright` or `full`; box (left, top, width, height) in px; mask uint8 [height, width], 255 inside."""

    kind: str
    box: tuple[int, int, int, int]
    mask: np.ndarray


def find(frames: Sequence[np.ndarray]) -> Fan:
    """Find the fan from what moves and what is bright.

    Bright areas, opened so that text and scales vanish, are candidates. Those that move are the fan (`fan`); in a still
    clip the large ones are (`bright`); if they make up less than 5 % of the picture, all of it is kept (`full`). The
    mask is the convex hull: shadows inside the fan stay, ticks and letters beside a convex fan go.

    Args:
        frames: T x uint8 [H, W], all of one size.
    """
    height, width = frames[0].shape
    scale = min(1.0, SIDE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    chosen = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, FRAMES).astype(int))]
    small = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in chosen])  # T x h x w
    lit = small[small.max(axis=(1, 2)) > DARK].astype(np.float32)
    full = Fan("full", (0, 0, width, height), np.full((height, width), 255, np.uint8))
    if not len(lit):
        return full

    peak, moving = lit.max(axis=0), lit.std(axis=0) > STILL
    bright = peak > DARK + _background(peak, moving)
    still = (moving & bright).mean() < 0.02
    label = _areas(bright, bright if still else moving & bright)
    weight = np.bincount(label.ravel(), None if still else moving.ravel(), minlength=2)[1:]
    region = np.isin(label, 1 + np.flatnonzero(weight >= (0.3 if still else 0.01) * weight.max(initial=1)))
    return _hull("bright" if still else "fan", region, (height, width)) if region.mean() > 0.05 else full


def _background(peak: np.ndarray, moving: np.ndarray) -> float:
    """Grey value around the fan: that of the darkest corner [h, w] that is even and static; 0 if there is none."""
    side = max(2, min(peak.shape) // 20)
    ends = (slice(None, side), slice(-side, None))
    corners = [(peak[y, x], moving[y, x]) for y in ends for x in ends]
    even = [grey.max() for grey, moves in corners if np.ptp(grey) <= DARK and not moves.any()]
    # brighter: tissue, or a panel of the scanner; in a still, where all is static, smooth tissue is as even
    return min((grey for grey in even if grey < 64), default=0) if moving.any() else 0


def _areas(bright: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Label image [h, w] of the bright areas, their thin parts gone; rounded corners come back where `edge` is set."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    # a fan that runs out of the picture goes on beyond it
    bright, edge = (np.pad(area.astype(np.uint8), 8, mode="edge") for area in (bright, edge))
    opened = cv2.morphologyEx(cv2.morphologyEx(bright, cv2.MORPH_CLOSE, np.ones((3, 3))), cv2.MORPH_OPEN, kernel)
    return cv2.connectedComponents((opened | cv2.dilate(opened, kernel) & edge)[8:-8, 8:-8])[1]


def _hull(kind: str, region: np.ndarray, shape: tuple[int, int]) -> Fan:
    """The convex hull of the region [h, w], found on small frames, as a box and mask of frames of `shape`."""
    height, width = shape
    rows, columns = np.nonzero(region)
    # a small pixel covers a square of the full frame: its four corners count
    corners = [np.stack([columns + right, rows + down], axis=1) for right in (0, 1) for down in (0, 1)]
    points = np.concatenate(corners) * [width / region.shape[1], height / region.shape[0]]
    mask = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(points).astype(np.int32)), 255)
    left, top, wide, high = cv2.boundingRect(mask)
    return Fan(kind, (left, top, wide, high), mask[top : top + high, left : left + wide])


def sector(fan: Fan) -> tuple[float, ...] | None:
    """What piece of a ring the probe shows, in sides of the square that `crop` makes.

    The fan's box, the opening and the width of the probe's face determine the ring, which the picture may cut off at its
    sides; of a grid of both, that one is taken whose convex hull overlaps the mask best. A linear probe is a convex one with
    an apex far above.

    Returns:
        apex_x, apex_y (from the square's left and top), half_angle (radians), near, far (radii of the probe's face and of the
        deepest tissue); None where none overlaps well: lopsided fans, several pictures in one.
    """
    left, top, width, height = fan.box
    square = crop(np.full((top + height, left + width), 255, np.uint8), fan, GRID) > 127
    half_width, half_height = width / max(width, height) / 2, height / max(width, height) / 2
    y, x = (np.mgrid[:GRID, :GRID] + 0.5)[:, None, None] / GRID                                 # 1 x 1 x GRID x GRID
    angle, face = (grid[..., None, None] for grid in np.meshgrid(ANGLES, FACES * half_width, indexing="ij"))
    near = face / np.sin(angle)
    apex_y = 0.5 - half_height - near * np.cos(angle)
    far = 0.5 + half_height - apex_y
    across, along = np.abs(x - 0.5), y - apex_y
    ring = (np.hypot(across, along) <= far) & (across <= along * np.tan(angle)) & (along >= near * np.cos(angle))
    ring &= across <= half_width
    overlap = (ring & square).sum((2, 3)) / (ring | square).sum((2, 3))                         # ANGLES x FACES
    overlap[0] += 0.01      # pictures with rounded corners are linear
    best = np.unravel_index(overlap.argmax(), overlap.shape)
    found = (0.5, apex_y[best].item(), angle[best[0], 0].item(), near[best].item(), far[best].item())
    return found if fan.kind != "full" and overlap[best] >= OVERLAP else None


def crop(frame: np.ndarray, fan: Fan, size_px: int) -> np.ndarray:
    """The fan of a frame [H, W] as a square [size_px, size_px]; black is added, so that the aspect ratio stays."""
    left, top, width, height = fan.box
    inside = cv2.bitwise_and(frame[top : top + height, left : left + width], fan.mask)
    scale = size_px / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    square = np.zeros((size_px, size_px), np.uint8)
    x, y = (size_px - size[0]) // 2, (size_px - size[1]) // 2
    square[y : y + size[1], x : x + size[0]] = cv2.resize(inside, size, interpolation=cv2.INTER_AREA)
    return square
