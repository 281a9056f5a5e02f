"""The fan on screens that show more than a fan: grey screens and bars, title slides, several pictures, insets."""

import cv2
import numpy as np
import pytest
from test_fan import film, hull_of, labelled, overlap, sector

from stages.lib.clips.crop import choice, detection, pictures, scenes
from stages.lib.clips.crop.given import Given
from stages.phantoms.recording import Clip, scan


@pytest.fixture(scope="module")
def phantoms():
    """Frames of two phantom clips on black, T x uint8 [H, W], and where the fan is, bool [H, W]."""
    made = []
    for number, source in enumerate(("pocus", "clust")):
        clip = Clip(source, f"c{number}.mp4", "", "", {"pocus": "covid", "clust": "Rb2"}[source], "convex")
        phantom, scanner = scan(clip, 0.5, number, np.random.default_rng([number, 7]))
        frames = [cv2.cvtColor(scanner.frame(phantom.field(index / 5)), cv2.COLOR_BGR2GRAY) for index in range(8)]
        made.append(([frame * scanner.fan for frame in frames], scanner.fan))
    return made


def screen(height, width, grey=0, frames=8):
    return [np.full((height, width), grey, np.uint8) for _ in range(frames)]


def put(frames, fan, top, left, height, width):
    """Show a fan's frames, scaled into a box, on those of a screen; return where it shows."""
    pictures_, inside = fan
    scale = min(height / inside.shape[0], width / inside.shape[1])
    size = (int(inside.shape[1] * scale), int(inside.shape[0] * scale))
    small = cv2.resize(inside.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    shown = np.zeros(frames[0].shape, bool)
    shown[top : top + size[1], left : left + size[0]] = small
    for index, frame in enumerate(frames):
        frame[shown] = cv2.resize(pictures_[index % len(pictures_)], size, interpolation=cv2.INTER_AREA)[small]
    return shown


def panel(frames, top, left, height, width, seed=0):
    """A rectangle whose texture scrolls, as an M-mode strip does."""
    texture = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(height, width + 200)), (0, 0), 2)
    texture = (110 + 50 * texture / texture.std()).clip(20, 255).astype(np.uint8)
    for index, frame in enumerate(frames):
        frame[top : top + height, left : left + width] = texture[:, 10 * index : 10 * index + width]


@pytest.mark.parametrize("grey", [25, 40, 90, 160, 240])
@pytest.mark.parametrize("which", [0, 1])
def test_a_fan_on_an_even_screen_of_any_grey(phantoms, grey, which):
    frames = screen(420, 560, grey)
    shown = put(frames, phantoms[which], 60, 120, 330, 330)
    found = detection.find(labelled(frames))
    assert (found.kind, found.uncertain) == ("fan", "")
    assert overlap(found, shown) > 0.93


@pytest.mark.parametrize("grey", [25, 128, 255])
def test_a_still_picture_on_an_even_screen(phantoms, grey):
    frames = screen(420, 560, grey, frames=1)
    shown = put(frames, phantoms[0], 60, 120, 330, 330)
    found = detection.find(frames)
    assert found.kind == "bright" and overlap(found, shown) > 0.93


def test_an_even_corner_of_a_still_picture_without_a_screen_is_tissue():
    picture = film(sector(), frames=1)[0][60:200, 100:300].clip(30)
    picture[:20, :20] = picture[-20:, -20:] = picture[:20, -20:] = 60
    assert detection.find([picture]).box == (0, 0, 200, 140)


@pytest.mark.parametrize(("grey", "dark"), [(28, 0), (245, 0), (60, 20)])
def test_a_fan_between_the_bars_of_a_phone(phantoms, grey, dark):
    frames = screen(640, 300, dark)
    for frame in frames:
        frame[:90] = frame[430:] = grey
        cv2.circle(frame, (60, 560), 25, 200, -1)
        cv2.circle(frame, (220, 560), 25, 200, -1)
    shown = put(frames, phantoms[0], 110, 10, 300, 280)
    found = detection.find(frames)
    assert overlap(found, shown) > 0.93 and not found.uncertain


def test_tissue_of_the_screens_grey_stays_in_the_fan():
    """The whole middle of the fan is static and as grey as the screen, without a way to the border."""
    inside = sector()
    frames = film(inside, dark=40)
    for frame in frames:
        frame[120:190, 150:250] = 40
    assert overlap(detection.find(frames), inside) > 0.93


SLIDES = {"white": (250, 0), "black": (0, 255), "grey": (90, 255)}


def slide(shape, paper, ink):
    picture = np.full(shape, paper, np.uint8)
    for line, text in enumerate(("Case 3: B-lines", "Department of", "Radiology")):
        cv2.putText(picture, text, (20, 60 + 70 * line), cv2.FONT_HERSHEY_SIMPLEX, 1.2, ink, 3)
    return picture


@pytest.mark.parametrize("kind", SLIDES)
@pytest.mark.parametrize("place", [slice(0, 3), slice(9, 12)])
def test_a_slide_before_or_after_the_clip_is_ignored(phantoms, kind, place):
    frames = screen(420, 560, frames=12)
    shown = put(frames, phantoms[0], 60, 120, 330, 330)
    for index in range(*place.indices(12)):
        frames[index] = slide((420, 560), *SLIDES[kind])
    found = detection.find(frames)
    assert found.odd == tuple(range(*place.indices(12)))
    assert overlap(found, shown) > 0.93 and not found.uncertain


def test_frames_of_one_clip_are_not_odd(phantoms):
    """Not where they move, go dark, change their gain or are independent noise; nor where no scene has half of them."""
    frames, _ = phantoms[0]
    noise = list(np.random.default_rng(0).integers(0, 256, (8, 90, 90), dtype=np.uint8))
    assert scenes.odd(frames) == scenes.odd(noise) == ()
    dimmed = [(frame * gain).astype(np.uint8) for frame, gain in zip(frames, np.linspace(0.3, 1, len(frames)), strict=True)]
    assert scenes.odd(dimmed) == ()
    assert scenes.odd([np.zeros_like(frames[0]), *frames]) == ()                # black frames are counted elsewhere
    shape = frames[0].shape
    assert scenes.odd([slide(shape, 250, 0)] * 5 + [slide(shape, 0, 255)] * 5 + frames[:4]) == ()
    assert scenes.odd(frames[:2]) == ()


@pytest.mark.parametrize("gap", [8, 40])
def test_two_live_pictures_are_not_one_fan(phantoms, gap):
    frames = screen(420, 640 + gap)
    shown = [put(frames, phantoms[0], 40, 0, 330, 320), put(frames, phantoms[1], 40, 320 + gap, 330, 320)]
    found = detection.find(frames)
    assert found.uncertain.startswith("2 pictures on one screen")
    assert max(overlap(found, one) for one in shown) > 0.93                     # one of them, not the hull of both


def test_four_pictures(phantoms):
    frames = screen(640, 640)
    shown = [put(frames, phantoms[number % 2], 325 * (number // 2), 325 * (number % 2), 310, 310) for number in range(4)]
    found = detection.find(frames)
    assert "pictures on one screen" in found.uncertain
    assert max(overlap(found, one) for one in shown) > 0.93


def test_of_a_frozen_and_a_live_picture_the_live_one_is_the_fan(phantoms):
    frames = screen(420, 660)
    still = ([phantoms[1][0][0]], phantoms[1][1])
    put(frames, still, 40, 0, 330, 320)
    shown = put(frames, phantoms[0], 40, 340, 330, 320)
    found = detection.find(frames)
    assert overlap(found, shown) > 0.93 and not found.uncertain


@pytest.mark.parametrize("place", [(360, 20, 150, 520), (40, 345, 320, 210)])
def test_a_strip_of_m_mode_below_or_beside_the_fan_goes(phantoms, place):
    frames = screen(530, 560)
    shown = put(frames, phantoms[0], 20, 10, 320, 320)
    panel(frames, *place)
    found = detection.find(frames)
    assert overlap(found, shown) > 0.93 and not found.uncertain


@pytest.mark.parametrize("place", [(5, 450, 90, 105), (320, 445, 95, 110)])
def test_the_inset_of_a_webcam_goes(phantoms, place):
    frames = screen(420, 560)
    shown = put(frames, phantoms[0], 10, 10, 400, 420)
    panel(frames, *place)
    found = detection.find(frames)
    assert overlap(found, shown) > 0.93 and not found.uncertain


def test_a_linear_picture_above_m_mode_is_kept_with_a_doubt():
    frames = screen(530, 560)
    panel(frames, 10, 130, 300, 300, seed=1)
    panel(frames, 350, 20, 160, 520)
    found = detection.find(frames)
    assert found.uncertain.startswith("2 pictures") and np.abs(np.subtract(found.box, (130, 10, 300, 300))).max() <= 8


def test_a_progress_bar_and_a_clock_go(phantoms):
    frames = screen(420, 560)
    shown = put(frames, phantoms[0], 10, 100, 370, 360)
    for index, frame in enumerate(frames):
        frame[402:412, 10 : 60 + 60 * index] = 220
        cv2.putText(frame, f"00:0{index}", (480, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1)
    found = detection.find(frames)
    assert overlap(found, shown) > 0.93 and not found.uncertain


def test_two_fans_that_touch_are_a_doubt(phantoms):
    frames = screen(420, 620)
    put(frames, phantoms[0], 40, 0, 330, 330)
    put(frames, (phantoms[0][0][::-1], phantoms[0][1]), 40, 320, 330, 300)
    assert detection.find(frames).uncertain


def test_pieces_that_a_shadow_parts_are_one_fan():
    """Left and right of a beam without contact, and above and below a layer without echoes."""
    inside = sector()
    y, x = np.mgrid[:300, :400]
    radius = np.hypot(x - 200, y + 0)
    for hidden in (np.abs(x - 200) < 9, np.abs(radius - 150) < 15):
        areas = cv2.connectedComponents((inside & ~hidden).astype(np.uint8))[1]
        region, doubt = pictures.select([areas == number for number in range(1, areas.max() + 1)])
        assert doubt == "" and np.array_equal(region, inside & ~hidden)


def test_a_clip_in_which_nothing_is_found_is_a_doubt():
    found = detection.find(screen(120, 160))
    assert (found.kind, found.box) == ("full", (0, 0, 160, 120)) and "no fan found" in found.uncertain


# What goes before what is found


def test_a_stated_region_narrows_the_search(phantoms):
    """Two live pictures, of which the file names one; and a region in which nothing is found is taken whole."""
    frames = screen(420, 660)
    put(frames, phantoms[1], 40, 0, 330, 320)
    shown = put(frames, phantoms[0], 40, 330, 330, 320)
    found = choice.choose(frames, region=(325, 20, 335, 380))
    assert overlap(found, shown) > 0.93 and not found.uncertain
    empty = choice.choose(screen(420, 660), region=(325, 20, 335, 380))
    assert (empty.kind, empty.box, empty.uncertain) == ("region", (325, 20, 335, 380), "") and empty.mask.all()


def test_the_users_box_and_mask_are_taken_as_they_stand(phantoms, tmp_path):
    frames = screen(420, 560)
    shown = put(frames, phantoms[0], 10, 10, 330, 420)
    found = choice.choose(frames, Given((30, 40, 200, 100), None))
    assert (found.kind, found.box, found.uncertain) == ("given", (30, 40, 200, 100), "") and found.mask.all()
    cv2.imwrite(str(tmp_path / "mask.png"), hull_of(shown) * 255)
    found = choice.choose(frames, Given(None, tmp_path / "mask.png"))
    assert found.kind == "given" and overlap(found, shown) == 1
    frames[0] = frames[1] = slide((420, 560), 250, 0)
    assert choice.choose(frames, Given((30, 40, 200, 100), None)).odd == (0, 1)


def test_a_given_crop_that_does_not_fit_the_pictures_is_one_sentence(tmp_path):
    frames = screen(120, 160)
    cv2.imwrite(str(tmp_path / "small.png"), np.full((60, 80), 255, np.uint8))
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((120, 160), np.uint8))
    (tmp_path / "text.png").write_text("no picture")
    for given, sentence in ((Given((100, 0, 61, 120), None), "beyond the picture of 160 × 120 px"),
                            (Given(None, tmp_path / "small.png"), "small.png has another size"),
                            (Given(None, tmp_path / "black.png"), "black.png is black"),
                            (Given(None, tmp_path / "text.png"), "text.png cannot be read")):
        with pytest.raises(ValueError, match=sentence):
            choice.choose(frames, given)
