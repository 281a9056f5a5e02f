"""The fan: the part of a frame that shows tissue, apart from text, scales and logos around it."""

from typing import NamedTuple

import cv2
import numpy as np

DARK = 6  # grey values up to here count as black: compression leaves 0 to 6 in black areas, a fan's empty depth has 8
ANGLES = np.linspace(0.01, 1.2, 60)  # half openings tried for a probe's geometry, in radians; the first stands for linear
FACES = np.linspace(0.05, 1, 20)  # half widths tried for the probe's face, as fractions of the fan's
GRID = 40  # on a picture of this side
MARGIN = 0.06  # of the beams and of the depth that `beams` leaves out at each edge: a found outline is up to so much too wide
OVERLAP = 0.93  # intersection over union with the mask, from which on the geometry counts as known


class Fan(NamedTuple):
    """The part of the picture that is kept.

    kind: how it was found: `fan` (it moves), `bright` (a still), `full` (the whole picture), `given` (by the user), `region`
        (by the file).
    box: left, top, width, height in px.
    mask: uint8 [height, width], 255 inside.
    uncertain: why the crop may be wrong; empty if it is sure.
    odd: numbers of the frames that show something else, such as a title slide.
    """

    kind: str
    box: tuple[int, int, int, int]
    mask: np.ndarray
    uncertain: str = ""
    odd: tuple[int, ...] = ()


class Cut(NamedTuple):
    """Takes the fan out of pictures: cut(picture) is a square.

    ring: the probe's geometry in the square, as `sector` returns it, None if unknown.
    beams: the geometry in the square of `crop`, if the square shows beam × depth.
    stretched: whether the fan fills the square, whatever its aspect ratio.
    """

    fan: Fan
    size_px: int
    ring: tuple[float, ...] | None
    beams: tuple[float, ...] | None
    stretched: bool = False

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """The square, uint8 [size_px, size_px], of a picture [H, W]."""
        if self.beams:
            return beams(frame, self.fan, self.beams, self.size_px)
        return crop(frame, self.fan, self.size_px, self.stretched)


def cut(fan: Fan, size_px: int, geometry: str) -> Cut | None:
    """What takes the fan out of its clip's pictures.

    Args:
        geometry: `fan`: as the scanner shows it; `beams`: beam × depth; `stretched`: the fan stretched to the square.

    Returns:
        None where `beams` is asked for and the probe's geometry is unknown.
    """
    if geometry == "stretched":
        return Cut(fan, size_px, None, None, stretched=True)
    ring = sector(fan)
    if geometry == "fan":
        return Cut(fan, size_px, ring, None)
    return ring and Cut(fan, size_px, filled(), ring)


def sector(fan: Fan) -> tuple[float, ...] | None:
    """What piece of a ring the probe shows, in sides of the square that `crop` makes.

    The fan's box, the opening and the width of the probe's face determine the ring, which the picture may cut off at its
    sides; of a grid of both, that one is taken whose convex hull overlaps the mask best. A linear probe is a convex one with
    an apex far above.

    Returns:
        apex_x, apex_y (from the square's left and top), half_angle (radians), near, far (radii of the probe's face and of the
        deepest tissue); None where none overlaps well (lopsided fans, several pictures in one), and where the mask
        is a mere box that was given.
    """
    if fan.kind == "full" or fan.kind in ("given", "region") and fan.mask.all():
        return None
    left, top, width, height = fan.box
    square = crop(np.full((top + height, left + width), 255, np.uint8), fan, GRID) > 127
    half_width, half_height = width / max(width, height) / 2, height / max(width, height) / 2
    y, x = (np.mgrid[:GRID, : GRID // 2] + 0.5)[:, None, None] / GRID                           # 1 x 1 x GRID x GRID / 2
    angle, face = (grid[..., None, None] for grid in np.meshgrid(ANGLES, FACES * half_width, indexing="ij"))
    near = face / np.sin(angle)
    apex_y = 0.5 - half_height - near * np.cos(angle)
    far = 0.5 + half_height - apex_y
    across, along = 0.5 - x, y - apex_y
    ring = (across**2 + along**2 <= far**2) & (across <= along * np.tan(angle)) & (along >= near * np.cos(angle))
    ring &= across <= half_width
    lit = square[:, : GRID // 2] + square[:, : GRID // 2 - 1 : -1].astype(np.float32)           # a ring is alike on both sides
    common, pixels = (ring.reshape(*ring.shape[:2], -1) @ np.stack([lit.ravel(), np.full(lit.size, 2, np.float32)], 1)).T
    overlap = (common / (pixels + square.sum() - common)).T                                     # ANGLES x FACES
    overlap[0] += 0.01      # pictures with rounded corners are linear
    best = np.unravel_index(overlap.argmax(), overlap.shape)
    found = (0.5, apex_y[best].item(), angle[best[0], 0].item(), near[best].item(), far[best].item())
    return found if overlap[best] >= OVERLAP else None


def crop(frame: np.ndarray, fan: Fan, size_px: int, stretched: bool = False) -> np.ndarray:
    """The fan of a frame [H, W] as a square [size_px, size_px]; black is added to keep the aspect ratio, or it is stretched."""
    left, top, width, height = fan.box
    inside = cv2.bitwise_and(frame[top : top + height, left : left + width], fan.mask)
    if stretched:
        return cv2.resize(inside, (size_px, size_px), interpolation=cv2.INTER_AREA)
    scale = size_px / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    square = np.zeros((size_px, size_px), np.uint8)
    x, y = (size_px - size[0]) // 2, (size_px - size[1]) // 2
    square[y : y + size[1], x : x + size[0]] = cv2.resize(inside, size, interpolation=cv2.INTER_AREA)
    return square


def beams(frame: np.ndarray, fan: Fan, ring: tuple[float, ...], size_px: int) -> np.ndarray:
    """The fan of a frame [H, W] as beam × depth, uint8 [size_px, size_px]: a column is a beam, a row one distance to the probe.

    Only beams that lie in the picture from the probe to the greatest depth are taken, less a margin of MARGIN at each edge: the
    square is full, so that no outline of the fan remains. Beams of a linear probe are parallel: its picture is scaled.

    Args:
        ring: the probe's geometry, as `sector` returns it.
    """
    left, top, width, height = fan.box
    side = max(width, height)
    across, along = beam_points(ring, width / side / 2, size_px * max(1, -(-side // size_px)))
    x, y = left + width / 2 + (across - 0.5) * side, top + height / 2 + (along - 0.5) * side
    # pixel centres lie at halves
    x, y = (x - 0.5).astype(np.float32), (y - 0.5).astype(np.float32)
    fine = cv2.remap(frame, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(fine, (size_px, size_px), interpolation=cv2.INTER_AREA)


def beam_points(ring: tuple[float, ...], half_width: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the samples of `beams` lie, in sides of the square that `crop` makes: x and y, float [size, size] each.

    Args:
        ring: the probe's geometry, as `sector` returns it.
        half_width: of the fan's box, beyond which the picture ends.
        size: number of beams and of depths.
    """
    apex_x, apex_y, half_angle, near, far = ring
    widest = min(half_angle, np.arcsin(min(1.0, half_width / far)))
    place = MARGIN + (1 - 2 * MARGIN) * (np.arange(size) + 0.5) / size
    angle, radius = (2 * place - 1) * widest, near + place[:, None] * (far - near)
    return apex_x + radius * np.sin(angle), apex_y + radius * np.cos(angle)


def filled() -> tuple[float, ...]:
    """The geometry of the frames that `beams` makes: a linear probe whose picture fills the square. As `sector` returns it."""
    near = 0.5 / np.sin(ANGLES[0])
    apex_y = -near * np.cos(ANGLES[0])
    return 0.5, float(apex_y), float(ANGLES[0]), float(near), float(1 - apex_y)
