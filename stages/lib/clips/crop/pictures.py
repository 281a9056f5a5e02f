"""Several pictures on one screen: dual and quad views, an M-mode strip below the fan, the inset of a webcam."""

from typing import NamedTuple

import cv2
import numpy as np

from stages.lib.clips.fan import Fan, sector

PIECE = 0.15  # of the largest part's area: a smaller part is a piece of the fan, a bar or an inset, not a second fan
PANEL = 0.93  # of its bounding box that a rectangle with straight edges fills
PANEL_PX = 12  # its shorter side, at least, as of every piece that an empty row or column cuts off; or
BAR = 5  # so many times as wide as high: a progress bar
APART = 0.2  # distance of the apexes of two pieces of one fan, at most, in heights of the picture
NOTCH = 0.4  # depth of a notch in the top edge of one fan, in heights of the fan, at most: deeper ones part two fans that touch


class Part(NamedTuple):
    """An area, bool [h, w]; its convex hull, uint8 [h, w], 255 inside; its box; and whether it is a rectangle."""

    area: np.ndarray
    hull: np.ndarray
    box: tuple[int, int, int, int]
    panel: bool

    @property
    def size(self) -> int:
        """Pixels of the hull."""
        return np.count_nonzero(self.hull)


def split(area: np.ndarray, foreground: np.ndarray) -> list[np.ndarray]:
    """Cut an area at the empty rows and columns of its foreground: the recursive XY cut of Nagy and Seth (1984).

    Args:
        area: bool [h, w]; its closing may have bridged the gap between two pictures.
        foreground: bool [h, w], in which the gap is open.

    Returns:
        The pieces, bool [h, w] each.
    """
    inside = area & foreground
    for axis in (0, 1):
        filled = np.flatnonzero(inside.sum(axis=axis) > 0.02 * inside.shape[axis])
        for gap in np.flatnonzero(np.diff(filled) > 1):
            start, end = filled[gap] + 1, filled[gap + 1]
            if start - filled[0] >= PANEL_PX and filled[-1] + 1 - end >= PANEL_PX:
                place = np.expand_dims(np.arange(inside.shape[1 - axis]), axis)
                return split(area & (place < start), foreground) + split(area & (place >= end), foreground)
    return [area]


def select(areas: list[np.ndarray]) -> tuple[np.ndarray, str]:
    """The areas that make up one fan, and why this may be wrong ('' if it is sure).

    A rectangle beside a fan goes: it is a strip of M-mode or Doppler, or an inset. Of several fans the largest stays, of
    several rectangles the first in reading order, as M-mode stands below or to the right of its picture; both with a doubt.
    All other areas are pieces of the fan, which a shadow parts from the rest.

    Args:
        areas: bool [h, w] each, which move or are bright.
    """
    parts = sorted(map(_part, areas), key=lambda part: -part.size)
    large = [part for part in parts if part.size >= PIECE * parts[0].size]
    fans = [part for part in large if not part.panel]
    main = fans[0] if fans else min(large, key=lambda part: part.box[0] + part.box[1])
    others = [part for part in (fans or large) if part is not main and (part.panel or _another(main, part))]
    if others:
        return main.area, f"{1 + len(others)} pictures on one screen, of which one is kept"
    small = [part for part in parts if part.size < PIECE * parts[0].size and not part.panel]
    region = np.logical_or.reduce([part.area for part in [main, *fans, *small]])
    return region, "a deep gap in the top edge: two pictures that touch, or lost contact" if _notch(region) > NOTCH else ""


def _part(area: np.ndarray) -> Part:
    points = np.argwhere(area)[:, ::-1].astype(np.int32)
    left, top, width, height = cv2.boundingRect(points)
    hull = cv2.fillConvexPoly(np.zeros(area.shape, np.uint8), cv2.convexHull(points), 255)
    straight = area.sum() >= PANEL * width * height and (min(width, height) >= PANEL_PX or width >= BAR * height)
    return Part(area, hull, (left, top, width, height), bool(straight))


def _another(main: Part, part: Part) -> bool:
    """Whether two parts are pictures of two probes: each has a probe's shape, and their apexes lie far apart."""
    one, two = _apex(main), _apex(part)
    return bool(one and two and np.hypot(*np.subtract(one, two)) > APART * main.area.shape[0])


def _apex(part: Part) -> tuple[float, float] | None:
    """x and y, in px, of the point in which the beams of the part meet; None if it has no probe's shape."""
    left, top, width, height = part.box
    ring = sector(Fan("fan", part.box, part.hull[top : top + height, left : left + width]))
    return ring and (left + width / 2, top + height / 2 + (ring[1] - 0.5) * max(width, height))


def _notch(region: np.ndarray) -> float:
    """Depth of the deepest notch in the top edge of a region [h, w], in heights of the region."""
    columns = np.flatnonzero(region.any(axis=0))
    edge = region[:, columns].argmax(axis=0)
    rim = np.maximum(np.minimum.accumulate(edge), np.minimum.accumulate(edge[::-1])[::-1])     # water stands up to here
    return (edge - rim).max() / (np.ptp(np.flatnonzero(region.any(axis=1))) + 1)
