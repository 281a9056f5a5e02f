"""The fan is found on frames whose fan is known, and what lies around it goes."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages.lib.clips import fan
from stages.lib.clips.crop import detection
from stages.lib.training.geometry import LINEAR
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
    found = detection.find(frames)
    assert found.kind == kind
    assert overlap(found, inside) > 0.93
    overlay = np.maximum.reduce(frames) * ~hull_of(inside)
    assert not (overlay[mask_of(found, inside.shape)] > 100).any()


def test_fan_on_a_grey_screen():
    inside = sector()
    assert overlap(detection.find(labelled(film(inside, dark=30))), inside) > 0.93


def test_fan_that_runs_out_of_the_picture_keeps_its_edges():
    inside = sector(left=-0.2, right=1.2, top=0.0, bottom=1.3)
    assert overlap(detection.find(film(inside)), inside) > 0.98


def test_linear_probe_beside_a_black_margin():
    inside = np.zeros((300, 400), bool)
    inside[:, 60:330] = True
    left, top, width, height = detection.find(film(inside)).box
    assert (abs(left - 60) <= 3, top, abs(width - 270) <= 6, height) == (True, 0, True, 300)


def test_shadow_in_the_fan_stays_in_the_box():
    inside = sector()
    frames = film(inside)
    for frame in frames:
        frame[120:, 170:230] = 0                                              # behind a rib
        frame[110:150] = 0                                                    # an anechoic layer: the fan in two parts
    assert overlap(detection.find(frames), inside) > 0.9


def test_black_frames_do_not_make_text_look_like_motion():
    inside = sector()
    frames = labelled(film(inside))
    assert overlap(detection.find([np.zeros_like(frames[0]), *frames, np.zeros_like(frames[0])]), inside) > 0.93


@pytest.mark.parametrize("level", [0, 40])
def test_nothing_to_find_keeps_the_whole_frame(level):
    frame = np.zeros((120, 160), np.uint8)
    frame[60:64, 80:84] = level
    found = detection.find([frame] * 5)
    assert (found.kind, found.box) == ("full", (0, 0, 160, 120))
    assert found.mask.all()


@pytest.mark.parametrize("source", ["pocus", "clust", "gallbladder"])
@pytest.mark.parametrize("number", range(3))
def test_phantoms(source, number):
    scene = {"pocus": "covid", "clust": "Rb2", "gallbladder": "normal"}[source]
    clip = Clip(source, f"clip{number}.mp4", "", "", scene)
    phantom, scanner = scan(clip, 0.5, number, np.random.default_rng([number, 7]))
    found = detection.find([cv2.cvtColor(scanner.frame(phantom.field(index / 10)), cv2.COLOR_BGR2GRAY) for index in range(6)])
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


def test_a_stretched_fan_fills_the_square_and_has_no_geometry():
    """By the resizing of the box alone, of a fan that is wider than high."""
    mask = sector()
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
    inside = np.s_[box[1] : box[1] + box[3], box[0] : box[0] + box[2]]
    found = fan.Fan("fan", box, 255 * mask[inside].astype(np.uint8))
    cut = fan.cut(found, 64, "stretched")
    square = cut(np.full(mask.shape, 200, np.uint8))
    assert cut.ring is None and square.shape == (64, 64)
    assert (square > 100).any(0).all() and (square > 100).any(1).all()
    assert np.array_equal(square, cv2.resize((200 * mask[inside]).astype(np.uint8), (64, 64), interpolation=cv2.INTER_AREA))


def test_crop_averages_over_areas():
    frame = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    found = fan.Fan("full", (0, 0, 64, 64), np.full((64, 64), 255, np.uint8))
    mean = frame.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert np.abs(fan.crop(frame, found, 16) - mean).max() <= 0.5


# The probe's geometry


def ring(degrees, near, far=1.0, scale=300, visible=1.0):
    """The convex hull of a piece of a ring as a fan that was found; a picture so much narrower cuts it off at its sides."""
    angle = np.radians(degrees)
    beams = np.linspace(-angle, angle, 400)
    edges = [np.stack([radius * np.sin(beams), radius * np.cos(beams)], 1) for radius in (near, far)]
    width, height = int(2 * far * np.sin(angle) * scale) + 1, int((far - near * np.cos(angle)) * scale) + 1
    points = np.concatenate([edges[0], edges[1][::-1]]) - [0, near * np.cos(angle)]
    points = points * scale + [width / 2, 0]
    mask = hull_of(cv2.fillPoly(np.zeros((height, width), np.uint8), [np.round(points).astype(np.int32)], 1) > 0)
    cut = round(width * (1 - visible) / 2)
    mask = mask[:, cut : width - cut].astype(np.uint8) * 255
    return fan.Fan("fan", (30, 20, mask.shape[1], height), mask)


def redrawn(found, geometry, size=200):
    """Intersection over union of the square's mask and the convex hull of the geometry, drawn as a polygon."""
    left, top, width, height = found.box
    square = fan.crop(np.full((top + height, left + width), 255, np.uint8), found, size) > 127
    apex_x, apex_y, angle, near, far = geometry
    beams = np.linspace(-angle, angle, 2000)
    points = [[apex_x + radius * np.sin(beams), apex_y + radius * np.cos(beams)] for radius in (near, far)]
    points = np.round(np.concatenate(points, 1).T * size).astype(np.int32)
    mask = cv2.fillConvexPoly(np.zeros((size, size), np.uint8), cv2.convexHull(points), 1) > 0
    mask[:, : round(size * (1 - width / max(width, height)) / 2)] = False       # where the picture ends
    mask[:, size - round(size * (1 - width / max(width, height)) / 2) :] = False
    return (mask & square).sum() / (mask | square).sum()


@pytest.mark.parametrize("degrees", [12, 20, 30, 35, 45, 60])
@pytest.mark.parametrize("near", [0.1, 0.3, 0.6])
def test_the_geometry_of_a_ring_is_found(degrees, near):
    """Opening within 3°, radii and apex as near as the grid and a short face allow, and the same area."""
    found = ring(degrees, near)
    geometry = fan.sector(found)
    apex_x, apex_y, angle, closest, far = geometry
    side = max(found.box[2:]) / 300
    top = 0.5 - found.box[3] / 300 / side / 2
    assert apex_x == 0.5 and abs(np.degrees(angle) - degrees) < 3
    assert far == pytest.approx(1 / side, rel=0.08)
    assert closest == pytest.approx(near / side, rel=0.12, abs=0.05)
    assert apex_y == pytest.approx(top - near * np.cos(np.radians(degrees)) / side, abs=0.1)
    assert apex_y + far == pytest.approx(top + found.box[3] / 300 / side, abs=0.01)      # to the lowest point of the box
    assert apex_y + closest * np.cos(angle) == pytest.approx(top, abs=0.01)              # and from the face's corners
    assert redrawn(found, geometry) > 0.95


def test_the_geometry_of_rings_of_many_openings_and_faces():
    """Those between the grid's points are off by up to 5°, as a wider fan with another face covers nearly the same area."""
    rings = {(degrees, near): ring(degrees, near) for degrees in range(15, 70, 6) for near in (0.15, 0.25, 0.35, 0.45, 0.55)}
    found = {truth: fan.sector(one) for truth, one in rings.items()}
    assert sum(geometry is not None for geometry in found.values()) >= 0.95 * len(found)
    apart = [abs(np.degrees(geometry[2]) - degrees) for (degrees, _), geometry in found.items() if geometry]
    assert np.mean(apart) < 2 and max(apart) < 6


@pytest.mark.parametrize("degrees", [30, 40])
@pytest.mark.parametrize("visible", [0.9, 0.75, 0.6])
def test_the_geometry_of_a_ring_that_the_picture_cuts_at_its_sides(degrees, visible):
    found = ring(degrees, 0.35, visible=visible)
    geometry = fan.sector(found)
    assert abs(np.degrees(geometry[2]) - degrees) < 5 and redrawn(found, geometry) > 0.94
    assert geometry[4] * np.sin(geometry[2]) > found.box[2] / max(found.box[2:]) / 2 * 1.02     # it goes on beyond


@pytest.mark.parametrize("size", [(200, 300), (300, 200), (250, 250), (300, 90)])
@pytest.mark.parametrize("corner", [0, 12])
def test_the_geometry_of_a_linear_probe(size, corner):
    """Sharp corners or round ones."""
    height, width = size
    mask = np.zeros(size, np.uint8)
    points = [(x, y) for x in (corner, width - 1 - corner) for y in (corner, height - 1 - corner)]
    for point in points:
        cv2.circle(mask, point, corner, 255, -1)
    found = fan.Fan("bright", (0, 0, width, height), hull_of(mask > 0).astype(np.uint8) * 255)
    apex_x, apex_y, angle, near, far = fan.sector(found)
    side = max(size)
    assert (apex_x, angle) == (0.5, pytest.approx(fan.ANGLES[0])) and angle == pytest.approx(LINEAR)
    assert far - near == pytest.approx(height / side, abs=0.01)
    assert apex_y + near == pytest.approx(0.5 - height / side / 2, abs=0.01)
    assert near * np.sin(angle) == pytest.approx(width / side / 2, rel=0.06)


def two_fans(mask):
    one = ring(35, 0.3, scale=150).mask
    mask[: one.shape[0], : one.shape[1]] = one
    mask[: one.shape[0], -one.shape[1] :] = one


def corner_missing(mask):
    mask[:] = 255
    mask[:170, 130:] = 0


def half_a_fan(mask):
    cv2.fillConvexPoly(mask, np.array([(0, 0), (299, 299), (0, 299)]), 255)


@pytest.mark.parametrize("shape", [two_fans, corner_missing, half_a_fan])
def test_a_shape_that_no_probe_makes_has_no_geometry(shape):
    mask = np.zeros((300, 300), np.uint8)
    shape(mask)
    left, top, width, height = cv2.boundingRect(mask)
    assert fan.sector(fan.Fan("fan", (0, 0, width, height), mask[top : top + height, left : left + width])) is None


def test_a_whole_picture_in_which_no_fan_was_found_has_no_geometry():
    mask = np.full((100, 150), 255, np.uint8)
    assert fan.sector(fan.Fan("full", (0, 0, 150, 100), mask)) is None
    assert fan.sector(fan.Fan("fan", (0, 0, 150, 100), mask)) is not None


@pytest.mark.parametrize(("source", "probe"), [("pocus", "convex"), ("clust", "convex"), ("gallbladder", "convex"),
                                               ("pocus", "linear")])
def test_the_geometry_of_phantoms_is_that_of_their_probe(source, probe):
    """Against the probe that made the frames. Fans that the picture cuts off say less of their opening, or nothing."""
    found = 0
    for number in (0, 3, 4, 5):
        scene = {"pocus": "covid", "clust": "Rb2", "gallbladder": "normal"}[source]
        clip = Clip(source, f"c{number}.mp4", "", "", scene, probe)
        phantom, scanner = scan(clip, 0.5, number, np.random.default_rng([number, 7]))
        frames = [cv2.cvtColor(scanner.frame(phantom.field(index / 10)), cv2.COLOR_BGR2GRAY) for index in range(4)]
        geometry = fan.sector(detection.find(frames))
        if geometry is None:
            continue
        found += 1
        _, _, angle, near, far = geometry
        if probe == "linear":
            assert angle == pytest.approx(LINEAR)
            continue
        sides = scanner.fan[:, [0, -1]].any()
        ratio = scanner.transducer.radius_mm / (scanner.transducer.radius_mm + scanner.transducer.depth_mm)
        assert abs(np.degrees(angle - scanner.transducer.half_angle)) < (5 if sides else 3)
        assert near / far == pytest.approx(ratio, abs=0.08)
    assert found >= 3


@pytest.mark.real
@pytest.mark.skipif("US_CLIPS" not in os.environ, reason="US_CLIPS names no folder with pocus/")
def test_most_real_clips_have_a_geometry():
    """All videos of POCUS, by fifteen of the first frames of each."""
    found, suffixes = [], (".mp4", ".avi", ".mov", ".gif", ".mpeg")
    for path in sorted(Path(os.environ["US_CLIPS"], "pocus").rglob("*")):
        if path.suffix.lower() not in suffixes:
            continue
        video = cv2.VideoCapture(str(path))
        frames = [frame for done, frame in (video.read() for _ in range(45)) if done][::3]
        grey = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]
        found += [fan.sector(detection.find(grey))] if grey else []
    assert len(found) == 131
    known = [geometry for geometry in found if geometry]
    assert len(known) >= 0.9 * len(found)
    assert all(np.isfinite(geometry).all() and 0 < geometry[3] < geometry[4] for geometry in known)
