"""crops.csv, the contact sheet, and what extract_frames makes of both."""

import base64
import re
from fnmatch import fnmatchcase
from html.parser import HTMLParser

import cv2
import numpy as np
import pandas as pd
import pytest
from test_fan import film, sector

from stages import extract_frames
from stages.lib.clips import catalogue, fan, store
from stages.lib.clips.crop import choice, given, sheet, text
from stages.lib.params import UserError

CLIPS = ["convex/a.mp4", "convex/b.mp4", "linear/c.mp4"]


def crops(folder, text):
    (folder / "crops.csv").write_text(text, encoding="utf-8")
    return given.read(folder, CLIPS)


def test_rows_give_boxes_and_masks_to_clips_and_patterns(tmp_path):
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops/scanner.png").write_bytes(b"")
    assert given.read(tmp_path, CLIPS) == {}
    found = crops(tmp_path, "clip,left,top,width,height,mask\nconvex/b.mp4, 1,2,30,40 ,\nconvex/*,,,,,crops/scanner.png\n")
    mask = given.Given(None, tmp_path / "crops/scanner.png")
    assert found == {"convex/b.mp4": given.Given((1, 2, 30, 40), None), "convex/a.mp4": mask}
    assert crops(tmp_path, "\ufeffclip,mask\n*,crops/scanner.png\n") == dict.fromkeys(CLIPS, mask)
    assert crops(tmp_path, "Clip;Mask;\r\n*;crops\\scanner.png;\r\n") == dict.fromkeys(CLIPS, mask)     # from Windows


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("clip,left,top\nconvex/a.mp4,1,2\n", "must have the column clip and left, top, .*; it has clip, left"),
        ("clip,left,top,width,height,depth\nconvex/a.mp4,1,2,30,40,5\n", "it has clip, left, top, width, height, depth"),
        ("", "is empty; its first line must name the columns clip"),
        ("clip,left,top,width,height\nscan,convex/a.mp4,1,2,30,40\n", "line 2 has 6 fields, but the first line has 5"),
        ("clip,left,top,width,height\n\n\nconvex/a.mp4,x,2,30,40\n", "line 4: left is 'x'"),
        ("clip,left,top,width,height\na.mp4,1,2,30,40\n", "line 2: no clip is named 'a.mp4'"),
        ("clip,left,top,width,height\nlinear/c.mp4,1,2,30,40\nconvex/a.mp4,1,-2,30,40\n", "line 3: top is '-2'; it must be"),
        ("clip,left,top,width,height\nconvex/a.mp4,1,2,30.5,40\n", "line 2: width is '30.5'"),
        ("clip,left,top,width,height\nconvex/a.mp4,1,2,,40\n", "line 2: width is ''"),
        ("clip,left,top,width,height\nconvex/a.mp4,1,2,30,7\n", "line 2: the box is 30 × 7 px"),
        ("clip,mask\nconvex/a.mp4,crops/none.png\n", "line 2: .*crops/none.png is missing"),
        ("clip,mask,left,top,width,height\nconvex/a.mp4,x.png,1,2,30,40\n", "line 2: give a box or a mask, not both"),
        ("clip,mask\nconvex/a.mp4,\n", "line 2: left is ''"),
    ],
)
def test_a_wrong_row_is_one_sentence_that_names_it(tmp_path, text, sentence):
    with pytest.raises(UserError, match=f"crops.csv.*{sentence}"):
        crops(tmp_path, text)


class Page(HTMLParser):
    """Tags in order, images, and the text of each section."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.sections, self.links = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "section":
            self.sections.append("")
        if tag == "img":
            self.images.append(dict(attrs))
        self.links += [value for name, value in attrs if name in ("href", "src") and value]

    def handle_data(self, data):
        if self.sections:
            self.sections[-1] += data


def decoded(uri):
    return cv2.imdecode(np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)


def test_a_row_that_names_a_clip_is_not_compared_with_the_others(tmp_path, monkeypatch):
    """A row for each clip of a large source would else take a comparison for each pair of clips."""
    compared = []
    monkeypatch.setattr(given, "fnmatchcase", lambda name, pattern: compared.append(pattern) or fnmatchcase(name, pattern))
    names = [f"{number}.avi" for number in range(50)]
    rows = [f"{name},{number},0,20,20" for number, name in enumerate(names)] + ["1?.avi,9,9,9,9"]
    (tmp_path / "crops.csv").write_text("\n".join(["clip,left,top,width,height", *rows]))
    found = given.read(tmp_path, names)
    assert [found[name].box[0] for name in names] == list(range(50)) and set(compared) == {"1?.avi"}


def test_a_picture_shows_first_middle_and_last_frame_with_the_outline_of_the_crop():
    frames = [np.full((84, 168), level, np.uint8) for level in (20, 60, 100, 140, 180)]
    area = fan.Fan("fan", (42, 21, 84, 42), np.full((42, 84), 255, np.uint8))
    image = decoded(sheet.picture(frames, area)).astype(int)
    assert image.shape == (84, 3 * 168, 3)
    for place, level in enumerate((20, 100, 180)):
        part = image[:, 168 * place : 168 * (place + 1)]
        assert np.abs(part[4:14, 4:14].mean() - level) < 6 and np.abs(part[38:46, 80:90].mean() - level) < 6
        coloured = np.ptp(part, axis=2) > 40
        rows, columns = np.nonzero(coloured)
        assert np.abs(np.array([columns.min(), rows.min(), columns.max(), rows.max()]) - (42, 21, 125, 62)).max() <= 3
        assert not coloured[28:56, 50:118].any()
    assert decoded(sheet.picture(frames[:1], area)).shape == (84, 168, 3)


def test_the_page_shows_uncertain_crops_first_and_clips_left_out_with_their_reason(tmp_path):
    uri = sheet.picture([np.full((50, 60), 90, np.uint8)], fan.Fan("full", (0, 0, 60, 50), np.full((50, 60), 255, np.uint8)))
    clip = {"crop": "fan", "crop_left": 1, "crop_top": 2, "crop_width": 30, "crop_height": 40, "width": 60, "height": 50,
            "crop_uncertain": "", "frames_odd": 0, "left_out": "", "picture": uri, "burned_in": "", "notes": ""}
    clips = [clip | {"clip": "a<b>.mp4", "frames_odd": 3}, clip | {"clip": "c.mp4", "crop_uncertain": "2 pictures & more"},
             clip | {"clip": "d.mp4", "left_out": "all frames are black", "picture": ""}]
    sheet.write(tmp_path / "crops/toy.html", "toy", clips)
    code = (tmp_path / "crops/toy.html").read_text(encoding="utf-8")
    page = Page(code)
    assert [re.sub(r"\s+", " ", part).strip()[:18] for part in page.sections] == [
        "Uncertain crops (1", "Other crops (1) a<", "Clips left out (1)"]
    assert "2 pictures & more" in page.sections[0] and "3 odd frames" in page.sections[1]
    assert "all frames are black" in page.sections[2]
    assert len(page.images) == 2 and all("1, top 2, 30 × 40 of 60 × 50 px" in image["alt"] for image in page.images)
    assert all(link.startswith(("data:", "#")) for link in page.links)           # nothing from elsewhere
    assert "a<b>" not in code and not list(tmp_path.rglob("*.partial"))
    named = clip | {"clip": "e.dcm", "burned_in": "yes", "notes": "odd & old"}
    sheet.write(tmp_path / "crops/toy.html", "toy", [*clips, named])
    page = Page((tmp_path / "crops/toy.html").read_text(encoding="utf-8"))
    assert "names or dates stand in the picture" in page.sections[1] and "odd & old" in page.sections[1]
    assert [name in page.sections[number] for number, name in enumerate(["c.mp4", "e.dcm", "a<b>.mp4", "d.mp4"])] == [True] * 4


def written_on(frames, words, height_px=12):
    """The frames with words in the middle, in white."""
    frames = [frame.copy() for frame in frames]
    for frame in frames:
        cv2.putText(frame, words, (60, 110), cv2.FONT_HERSHEY_SIMPLEX, height_px / 21, 255, 1, cv2.LINE_AA)
    return frames


def smooth_noise(count, seed):
    """Moving speckle of a tissue's look, T x uint8 [200, 300]."""
    rng = np.random.default_rng(seed)
    noise = [cv2.GaussianBlur(rng.normal(0, 1, (200, 300)).astype(np.float32), (0, 0), 3) for _ in range(count)]
    return [(90 + 220 * image).clip(0, 235).astype(np.uint8) for image in noise]


@pytest.mark.parametrize("words", ["DOE JANE", "19700101"])
@pytest.mark.parametrize("height_px", [10, 16])
@pytest.mark.parametrize("count", [1, 8])
def test_text_inside_the_fan_is_found(words, height_px, count):
    whole = fan.Fan("full", (0, 0, 300, 200), np.full((200, 300), 255, np.uint8))
    below = fan.Fan("given", (0, 120, 300, 80), np.full((80, 300), 255, np.uint8))
    dark = [image // 3 for image in smooth_noise(count, 0)]
    assert text.found(written_on(dark, words, height_px), whole)
    assert not text.found(written_on(dark, words, height_px), below)               # it stands beside the fan


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 8])
def test_speckle_is_no_text(seed, count):
    whole = fan.Fan("full", (0, 0, 300, 200), np.full((200, 300), 255, np.uint8))
    assert not text.found(smooth_noise(count, seed), whole)


def write_video(path, frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, frames[0].shape[::-1])
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    writer.release()


@pytest.fixture
def source(workspace, monkeypatch):
    """Three clips: one fan, two fans side by side, and no picture."""
    monkeypatch.setenv("SONOPAIR_WORKERS", "1")
    folder = workspace / "data/raw/custom"
    folder.mkdir(parents=True)
    fans = film(sector(), frames=10)
    other = film(sector(), frames=10, seed=1)
    write_video(folder / "one.avi", fans)
    write_video(folder / "two.avi", [np.hstack(pair) for pair in zip(fans, other, strict=True)])
    (folder / "broken.avi").write_bytes(b"no video")
    (folder / "clips.csv").write_text("path,patient,label\none.avi,,\ntwo.avi,,\nbroken.avi,,\n")
    return folder


def extracted(geometry="fan"):
    extract_frames.main("custom", "raw", 10.0, 6, 25.0, 48, geometry)
    return store.table("data/frames/custom/clips.csv").set_index("clip"), Page(open("reports/crops/custom.html").read())


def test_extraction_marks_uncertain_crops_and_writes_the_sheet(source):
    clips, page = extracted()
    assert clips["crop_uncertain"].astype(bool).to_dict() == {"broken.avi": False, "one.avi": False, "two.avi": True}
    assert ["two.avi" in page.sections[0], "one.avi" in page.sections[1], "broken.avi" in page.sections[2]] == [True] * 3
    assert "picture" not in clips and len(page.images) == 2


def test_extraction_takes_the_crops_that_the_user_gives(source):
    before, _ = extracted()
    (source / "crops.csv").write_text("clip,left,top,width,height\ntwo.avi,400,10,380,280\n")
    clips, page = extracted()
    row = clips.loc["two.avi"]
    assert (row["crop"], row["crop_uncertain"]) == ("given", "") and "None." in page.sections[0]
    assert row[["crop_left", "crop_top", "crop_width", "crop_height"]].tolist() == [400, 10, 380, 280]
    assert clips.loc["one.avi"].equals(before.loc["one.avi"])
    (source / "crops.csv").write_text("clip,left,top,width,height\ntwo.avi,700,10,380,280\n")
    clips, page = extracted()
    assert "the box reaches beyond the picture of 800 × 300 px" in clips.loc["two.avi", "left_out"]
    (source / "crops.csv").write_text("clip,left,top,width,height\nthree.avi,700,10,380,280\n")
    with pytest.raises(UserError, match="crops.csv, line 2: no clip is named 'three.avi'"):
        extracted()


def test_frames_as_beams_are_full_and_say_so(source):
    (source / "crops.csv").write_text("clip,left,top,width,height\ntwo.avi,400,10,380,280\n")
    clips, _ = extracted("beams")
    assert store.facts("data/frames/custom")["geometry"] == "beams"
    assert "no geometry" in clips.loc["two.avi", "left_out"]                    # a mere box has none
    frames = store.read("data/frames/custom").frames
    assert clips.loc["one.avi", store.FAN].tolist() == pytest.approx(fan.filled(), abs=1e-4)
    blocks = frames.reshape(len(frames), 12, 4, 12, 4).max(axis=(0, 2, 4))
    assert (blocks > fan.DARK).all() and len(pd.unique(clips["left_out"])) == 3


def test_the_folder_of_masks_holds_no_clips(workspace):
    for path in ("Cov1/1.png", "crops/scanner.png", "Reg1/crops/1.png"):
        (workspace / "raw" / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(workspace / "raw" / path), np.full((8, 8), 255, np.uint8))
    found = [path.relative_to(workspace / "raw").as_posix() for path in catalogue.recordings(workspace / "raw")]
    assert found == ["Cov1", "Reg1/crops"]


@pytest.mark.parametrize("drawn", ["grey", "deep", "hidden"])
def test_a_given_mask_in_any_usual_form(tmp_path, drawn):
    white = np.zeros((60, 80), np.uint8)
    white[10:50, 20:70] = 255
    hidden = np.dstack([np.full_like(white, 255)] * 3 + [white])                # white, but transparent around the fan
    cv2.imwrite(str(tmp_path / "a.png"), {"grey": white, "deep": white.astype(np.uint16) * 257, "hidden": hidden}[drawn])
    area = choice.choose([np.full((60, 80), 90, np.uint8)], given.Given(None, tmp_path / "a.png"))
    assert area.box == (20, 10, 50, 40) and (area.mask == 255).all()
