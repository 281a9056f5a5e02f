"""The fan is found on frames whose fan is known, and what lies around it goes."""

import cv2
import numpy as np
import pytest

from stages.lib import fan
from stages.phantoms.recording import Clip, scan


def sector(height=300, width=400, left=0.15, right=0.85, top=0.1, bottom=0.9):
    """A convex fan in fractions of the picture, bool [height, width]: within a ring, within 35° of its axis."""
    y, x = np.mgrid[:height, :width]
    half = (right - left) / 2 * width
    radius = half / np.sin(np.radians(35))
    apex = bottom * height - radius
    inner = (top * height - apex) / np.cos(np.radians(35))
    dx, dy = x - (left + right) / 2 * width, y - apex
    return (np.hypot(dx, dy) < radius) & (np.hypot(dx, dy) > inner) & (np.abs(np.degrees(np.arctan2(dx, dy))) < 35)


def film(inside, frames=8, dark=0, still=False, seed=0):
    """Speckle inside the fan, the grey value `dark` outside, frames x [H, W]."""
    rng = np.random.default_rng(seed)
    speckle = rng.rayleigh(40, (frames, *inside.shape)) + 10
    speckle = speckle[:1].repeat(frames, 0) if still else speckle
    return list(np.where(inside, speckle, dark).clip(0, 255).astype(np.uint8))


def labelled(frames):
    """The same with a name in two corners, a depth scale at the right and a logo."""
    for frame in frames:
        cv2.putText(frame, "LUNG 5 MHz", (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1)
        cv2.putText(frame, "MI 1.1", (4, 292), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 200, 1)
        cv2.rectangle(frame, (376, 6), (390, 20), 220, 2)
        for y in range(40, 280, 20):
            cv2.line(frame, (385, y), (395, y), 255, 1)
    return frames


def mask_of(found, shape):
    """The found mask in the full picture, bool [H, W]."""
    left, top, width, height = found.box
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = found.mask > 0
    return mask


def hull_of(inside):
    """The convex hull of a region, bool [H, W]."""
    points = np.argwhere(inside)[:, ::-1].astype(np.int32)
    return cv2.fillConvexPoly(np.zeros(inside.shape, np.uint8), cv2.convexHull(points), 1) > 0


def overlap(found, inside):
    """Intersection over union of the mask and the fan's convex hull."""
    mask, hull = mask_of(found, inside.shape), hull_of(inside)
    return (mask & hull).sum() / (mask | hull).sum()


@pytest.mark.parametrize(("still", "kind"), [(False, "fan"), (True, "bright")])
@pytest.mark.parametrize("dark", [0, 3])
def test_fan_is_found_and_text_around_it_goes(still, kind, dark):
    inside = sector()
    frames = labelled(film(inside, still=still, dark=dark))
    found = fan.find(frames)
    assert found.kind == kind
    assert overlap(found, inside) > 0.93
    overlay = np.maximum.reduce(frames) * ~hull_of(inside)
    assert not (overlay[mask_of(found, inside.shape)] > 100).any()


def test_fan_on_a_grey_screen():
    inside = sector()
    assert overlap(fan.find(labelled(film(inside, dark=30))), inside) > 0.93


def test_fan_that_runs_out_of_the_picture_keeps_its_edges():
    inside = sector(left=-0.2, right=1.2, top=0.0, bottom=1.3)
    assert overlap(fan.find(film(inside)), inside) > 0.98


def test_linear_probe_beside_a_black_margin():
    inside = np.zeros((300, 400), bool)
    inside[:, 60:330] = True
    left, top, width, height = fan.find(film(inside)).box
    assert (abs(left - 60) <= 3, top, abs(width - 270) <= 6, height) == (True, 0, True, 300)


def test_shadow_in_the_fan_stays_in_the_box():
    inside = sector()
    frames = film(inside)
    for frame in frames:
        frame[120:, 170:230] = 0                                              # behind a rib
        frame[110:150] = 0                                                    # an anechoic layer: the fan in two parts
    assert overlap(fan.find(frames), inside) > 0.9


def test_black_frames_do_not_make_text_look_like_motion():
    inside = sector()
    frames = labelled(film(inside))
    assert overlap(fan.find([np.zeros_like(frames[0]), *frames, np.zeros_like(frames[0])]), inside) > 0.93


@pytest.mark.parametrize("level", [0, 40])
def test_nothing_to_find_keeps_the_whole_frame(level):
    frame = np.zeros((120, 160), np.uint8)
    frame[60:64, 80:84] = level
    found = fan.find([frame] * 5)
    assert (found.kind, found.box) == ("full", (0, 0, 160, 120))
    assert found.mask.all()


@pytest.mark.parametrize("source", ["pocus", "clust", "gallbladder"])
@pytest.mark.parametrize("number", range(3))
def test_phantoms(source, number):
    scene = {"pocus": "covid", "clust": "Rb2", "gallbladder": "normal"}[source]
    clip = Clip(source, f"clip{number}.mp4", "", "", scene)
    phantom, scanner = scan(clip, 0.5, number, np.random.default_rng([number, 7]))
    found = fan.find([cv2.cvtColor(scanner.frame(phantom.field(index / 10)), cv2.COLOR_BGR2GRAY) for index in range(6)])
    assert found.kind == "fan"
    assert overlap(found, scanner.fan) > 0.93
    outside = mask_of(found, scanner.fan.shape) & ~hull_of(scanner.fan) & (scanner.overlay > 60)
    assert outside.sum() <= 0.02 * (scanner.overlay > 60).sum()


def test_crop_is_square_and_keeps_the_aspect_ratio():
    frame = np.full((100, 200), 90, np.uint8)
    found = fan.Fan("fan", (20, 10, 160, 80), np.full((80, 160), 255, np.uint8))
    square = fan.crop(frame, found, 32)
    assert square.shape == (32, 32)
    assert np.array_equal(np.flatnonzero(square.any(axis=1)), np.arange(8, 24))
    assert (square[8:24] == 90).all()


def test_crop_averages_over_areas():
    frame = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    found = fan.Fan("full", (0, 0, 64, 64), np.full((64, 64), 255, np.uint8))
    mean = frame.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert np.abs(fan.crop(frame, found, 16) - mean).max() <= 0.5
