"""Clips of every kind into a frame store: which frames, what bad input gets, the same from any number of processes."""

import math
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from recordings import write_av

from stages import extract_frames
from stages.lib.clips import sampling, store, workers
from stages.lib.params import UserError, from_params

PARAMS = {"frame_rate_hz": 5.0, "max_frames_per_clip": 10, "assumed_frame_rate_hz": 20.0, "size_px": 32, "geometry": "fan"}
CODECS = {".avi": "MJPG", ".mkv": "MJPG", ".webm": "VP80", ".mov": "mp4v", ".mp4": "mp4v", ".mpeg": "mp4v"}


def film(count, level=90, seed=0):
    """Speckle of a mean that grows from frame to frame, count x [48, 64, 3]."""
    rng = np.random.default_rng(seed)
    means = level + 5 * np.arange(count) % 100 if level else np.zeros(count)
    noise = rng.normal(0, 12 if level else 0, (count, 48, 64))
    grey = (means[:, None, None] + noise).clip(0, 255).astype(np.uint8)
    return [cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) for frame in grey]


def write_video(path, frames, fps=10.0):
    """Any video file that OpenCV can write, by suffix; a gif may have a list of durations in ms as `fps`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    if suffix == ".gif":
        animation = cv2.Animation()
        animation.frames = frames
        animation.durations = fps if isinstance(fps, list) else [round(1000 / fps)] * len(frames)
        assert cv2.imwriteanimation(str(path), animation)
        return
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*CODECS[suffix]), fps, (64, 48))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()


def write_images(folder, frames, suffix="png"):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, 1):
        cv2.imwrite(str(folder / f"{number}.{suffix}"), frame)


@pytest.fixture
def raw(workspace, monkeypatch):
    """The folder of the source `custom` in an empty project."""
    monkeypatch.setenv("SONOPAIR_WORKERS", "1")
    folder = workspace / "data" / "raw" / "custom"
    folder.mkdir(parents=True)
    return folder


def extract(raw, **changes):
    """Run the stage on `raw`, with a clips.csv of everything there if there is none; returns the store."""
    if not (raw / "clips.csv").exists():
        names = sorted(path.name for path in raw.iterdir())
        pd.DataFrame({"path": names, "patient": "p1", "label": ""}).to_csv(raw / "clips.csv", index=False)
    extract_frames.main(source="custom", collection="raw", **PARAMS | changes)
    return store.read("data/frames/custom")


def line(data, clip):
    """The line of a clip in clips.csv."""
    return data.clip_table.set_index("clip").loc[clip]


# Which frames


def due_frames(times, fps, rate_hz, most):
    """Numbers of the frames to keep, by a loop over the multiples of the interval."""
    step = max(1, math.floor(fps / rate_hz + 1e-6)) / fps if fps >= rate_hz else 1 / rate_hz
    due = []
    for multiple in range(int(times[-1] / step) + 2):
        at_or_after = [number for number, time in enumerate(times) if time >= multiple * step - 0.001]
        in_interval = [number for number in at_or_after if times[number] < (multiple + 1) * step - 0.001]
        due += in_interval[:1]
    stride = 1
    while len(due[::stride]) > 4 * most:
        stride *= 2
    due = due[::stride]
    if len(due) <= most:
        return due
    return [due[round(place * (len(due) - 1) / (most - 1))] for place in range(most)]


@pytest.mark.parametrize("fps", [2.0, 10.0, 22.244, 29.97, 60.0])
@pytest.mark.parametrize("count", [1, 7, 100, 1500])
@pytest.mark.parametrize("rate_hz", [3.0, 10.0])
@pytest.mark.parametrize("jitter_ms", [0, 0.5, 9])
def test_sampling_is_the_loop_over_intervals(fps, count, rate_hz, jitter_ms):
    rng = np.random.default_rng(count)
    times = np.sort(np.arange(count) / fps + rng.uniform(0, 2, count) * jitter_ms / 1000)
    frames = ((time, lambda: np.zeros((1, 1))) for time in times)
    sample = sampling.sample(frames, sampling.interval(fps, rate_hz), most=8)
    chosen = sampling.spread(sample.frames, 8)
    assert [frame.number for frame in chosen] == due_frames(times, fps, rate_hz, 8)
    assert sample.read == count
    assert sample.span_s == pytest.approx(times[-1] - times[0])


@pytest.mark.parametrize("fps", [500, 999, 1000, 2000, 5000])
def test_every_frame_of_a_fast_clip_is_due_where_its_own_rate_is_wanted(fps):
    sample = sampling.sample(((number / fps, lambda: None) for number in range(300)), sampling.interval(fps, fps), most=300)
    assert sample.damaged == 300                                                # each was looked at


def test_sampling_of_a_long_clip_holds_few_frames():
    alive = set()

    class Image:
        def __init__(self):
            alive.add(id(self))
            assert len(alive) <= 4 * 5 + 1

        def __del__(self):
            alive.discard(id(self))

    sample = sampling.sample(((number / 25, Image) for number in range(50_000)), 0.32, most=5)
    turns = [frame.turn for frame in sample.frames]
    assert sample.read == 50_000
    assert len(set(np.diff(turns))) == 1                                      # evenly, over the whole clip
    assert turns[0] == 0
    assert sample.frames[-1].time_s > 0.9 * sample.span_s


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.webm", "a.mov", "a.mp4", "a.mpeg", "a.gif", "A.MP4", "A.AvI"])
def test_video_formats(raw, name):
    write_video(raw / name, film(20))
    data = extract(raw)
    clip = line(data, name)
    assert (clip.frames_read, clip.frames_kept, clip.height, clip.width) == (20, 10, 48, 64)
    assert clip.fps == pytest.approx(10, rel=0.02)
    assert list(data.frame_table["frame"]) == list(range(0, 20, 2))
    assert np.allclose(data.frame_table["time_s"], np.arange(10) / 5, atol=0.02)
    assert np.all(np.diff(data.frames[:, 12:20, 12:20].mean(axis=(1, 2))) > 5)     # in time order


def test_uneven_gif_goes_by_its_time_stamps(raw):
    write_video(raw / "a.gif", film(6), fps=[100, 500, 100, 100, 300, 100])
    data = extract(raw, frame_rate_hz=4.0)
    assert list(data.frame_table["frame"]) == [0, 2, 4, 5]                    # shown from 0, 0.6, 0.8 and 1.1 s
    assert line(data, "a.gif").fps == pytest.approx(5 / 1.1, abs=0.01)


def test_nonsense_frame_rate_becomes_the_assumed_one_and_is_noted(raw):
    write_av(raw / "a.mov", film(40), fps=9000, codec="mjpeg", pix_fmt="yuvj420p")
    data = extract(raw)
    assert line(data, "a.mov").fps == 20
    assert line(data, "a.mov").notes == "its time stamps give 9000 frames a second, which is not believed: 20 taken"
    assert list(data.frame_table["frame"]) == list(range(0, 40, 4))


@pytest.mark.parametrize(("fps", "rate_hz"), [(1000.0, 100.0), (0.5, 0.5)])
def test_a_very_fast_or_slow_clip_has_its_own_times(raw, fps, rate_hz):
    write_av(raw / "a.avi", film(40), fps=fps)
    data = extract(raw, frame_rate_hz=rate_hz, max_frames_per_clip=40)
    step = max(1, int(fps / rate_hz))
    assert (line(data, "a.avi").fps, line(data, "a.avi").notes) == (fps, "")
    assert np.allclose(data.frame_table["frame"][: 40 // step], np.arange(0, 40, step), atol=1)  # 1 ms, see sampling.py
    assert np.allclose(data.frame_table["time_s"], data.frame_table["frame"] / fps)


def test_frame_rate_of_the_catalogue_overrules_the_video(raw):
    write_video(raw / "a.avi", film(40), fps=40.0)
    pd.DataFrame({"path": ["a.avi"], "patient": "", "label": "", "fps": 10}).to_csv(raw / "clips.csv", index=False)
    data = extract(raw)
    assert line(data, "a.avi").fps == 10
    assert list(data.frame_table["time_s"])[-1] == pytest.approx(3.8, abs=0.3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "PNG"])
def test_folder_of_images_in_natural_order(raw, suffix):
    write_images(raw / "clip", film(12), suffix)
    data = extract(raw, max_frames_per_clip=12)
    assert list(data.frame_table["frame"]) == list(range(12))
    assert data.frame_table["time_s"].isna().all()
    assert math.isnan(line(data, "clip").fps)
    assert np.all(np.diff(data.frames[:, 12:20, 12:20].mean(axis=(1, 2))) > 2)     # 2 before 10


def test_folder_of_images_with_a_frame_rate(raw):
    write_images(raw / "clip", film(20))
    pd.DataFrame({"path": ["clip"], "patient": "", "label": "", "fps": 10}).to_csv(raw / "clips.csv", index=False)
    data = extract(raw)
    assert list(data.frame_table["frame"]) == list(range(0, 20, 2))
    assert np.allclose(data.frame_table["time_s"], np.arange(10) / 5)


def test_images_of_differing_size_and_damaged_ones(raw):
    write_images(raw / "clip", film(6))
    cv2.imwrite(str(raw / "clip" / "7.png"), np.full((30, 40), 100, np.uint8))
    (raw / "clip" / "8.png").write_bytes(b"no image")
    (raw / "clip" / "9.png").touch()
    clip = line(extract(raw), "clip")
    assert (clip.frames_read, clip.frames_kept, clip.frames_damaged) == (9, 6, 2)
    assert clip.notes == "not of the size 64 × 48 and left out: 7.png (40 × 30)"


# What bad input gets


def cut(path, part):
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])


def text_as_video(raw):
    (raw / "bad.mp4").write_text("This is no video.")


def empty_file(raw):
    (raw / "bad.mp4").touch()


def no_index(raw):
    write_video(raw / "bad.mp4", film(20))
    cut(raw / "bad.mp4", 0.5)


def all_black(raw):
    write_video(raw / "bad.avi", film(20, level=0))


def missing(raw):
    pd.DataFrame({"path": ["bad.mp4", "good.avi"], "patient": "", "label": ""}).to_csv(raw / "clips.csv", index=False)


def dicom(raw):
    (raw / "bad.dcm").write_bytes(bytes(200))


def no_image_inside(raw):
    (raw / "bad").mkdir()


def text_as_image(raw):
    (raw / "bad.png").write_text("This is no image.")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (text_as_video, "no frame can be decoded"),
        (text_as_image, "no frame can be decoded"),
        (no_index, "no frame can be decoded"),
        (empty_file, "empty (0 bytes)"),
        (all_black, "all frames are black"),
        (missing, "the file is missing"),
        (dicom, "no frame can be decoded"),
        (no_image_inside, "the folder holds no image"),
    ],
)
def test_bad_clip_is_left_out_with_a_reason_and_the_run_goes_on(raw, capfd, make, reason):
    write_video(raw / "good.avi", film(20))
    make(raw)
    data = extract(raw)
    bad = next(clip for clip in data.clip_table.itertuples() if clip.clip.startswith("bad"))
    assert reason in bad.left_out
    assert bad.frames_kept == 0
    assert (line(data, "good.avi").left_out, line(data, "good.avi").frames_kept) == ("", 10)
    assert set(data.frame_table["clip"]) == {"good.avi"}
    printed = capfd.readouterr()
    told = printed.out.splitlines()[-1]
    assert told == "data/frames/custom: 1 of 2 clips, 10 frames of 32 px; 1 left out (see clips.csv)"
    assert printed.err == ""                                                  # no chatter of the decoders


def test_truncated_video_gives_the_frames_that_are_there(raw):
    write_video(raw / "a.avi", film(40))
    cut(raw / "a.avi", 0.5)
    clip = line(extract(raw), "a.avi")
    assert clip.left_out == ""
    assert 10 < clip.frames_read < 30


@pytest.mark.parametrize("name", ["one.avi", "one.gif", "one.png", "one.JPG"])
def test_clip_of_one_frame_is_kept(raw, name):
    write = write_video if name.endswith(("avi", "gif")) else lambda path, frames: cv2.imwrite(str(path), frames[0])
    write(raw / name, film(1))
    clip = line(extract(raw), name)
    assert (clip.frames_read, clip.frames_kept, clip.left_out) == (1, 1, "")


def test_black_frames_of_a_good_clip_are_dropped_and_counted(raw):
    frames = film(20)
    for number in (0, 1, 2, 8):
        frames[number] = np.zeros_like(frames[number])
    write_video(raw / "a.avi", frames)
    data = extract(raw)
    clip = line(data, "a.avi")
    assert (clip.frames_kept, clip.frames_black) == (7, 3)                    # of 0, 2, 4 …
    assert list(data.frame_table["frame"]) == [4, 6, 10, 12, 14, 16, 18]


def test_a_clip_that_is_listed_twice_is_extracted_once(raw):
    write_video(raw / "a.avi", film(20))
    pd.DataFrame({"path": ["a.avi", "./a.avi"], "patient": "", "label": "x"}).to_csv(raw / "clips.csv", index=False)
    clips = extract(raw).clip_table
    assert list(clips["left_out"]) == ["", "the same file is listed twice: the first line stays"]
    assert list(clips["frames_kept"]) == [10, 0]
    assert list(clips["patient"]) == ["", ""]


@pytest.mark.parametrize("name", ["Patientin Müller.avi", "肺 1.gif", " 100% %02d.avi", "a,b;'c'.png"])
def test_non_ascii_and_blank_filled_names(raw, name):
    frames = film(20)
    cv2.imwrite(str(raw / name), frames[0]) if name.endswith("png") else write_video(raw / name, frames)
    pd.DataFrame({"path": [name], "patient": "Zoë 1", "label": ""}).to_csv(raw / "clips.csv", index=False)
    data = extract(raw)
    assert list(data.clip_table["path"]) == [f"data/raw/custom/{name}"]
    assert list(data.clip_table["patient"]) == ["Zoë 1"]
    assert len(data.frames) > 0


def test_missing_and_empty_folder(raw):
    with pytest.raises(UserError, match="data/raw/custom should hold clips.csv .*; it holds nothing"):
        extract_frames.main(source="custom", collection="raw", **PARAMS)
    shutil.rmtree(raw)
    with pytest.raises(UserError, match="data/raw/custom is missing"):
        extract_frames.main(source="custom", collection="raw", **PARAMS)


def test_no_clip_left(raw):
    text_as_video(raw)
    with pytest.raises(UserError, match="none of the 1 clips can be used; the first is .*bad.mp4: no frame"):
        extract(raw)
    assert not Path("data/frames/custom").exists()


@pytest.mark.parametrize(
    "changes",
    [{"frame_rate_hz": 0.0}, {"max_frames_per_clip": 0}, {"size_px": 4}, {"assumed_frame_rate_hz": 1e4}],
)
def test_impossible_parameters(raw, changes):
    with pytest.raises(UserError, match=f"extract_frames.{next(iter(changes))} is"):
        from_params(extract_frames.main, PARAMS | changes, "extract_frames", source="custom", collection="raw")


def test_unknown_source_and_worker_count(raw, monkeypatch):
    with pytest.raises(UserError, match="'cardiac' is no source: take one of breast, butterfly"):
        extract_frames.main(source="cardiac", collection="raw", **PARAMS)
    monkeypatch.setenv("SONOPAIR_WORKERS", "many")
    write_video(raw / "a.avi", film(4))
    with pytest.raises(UserError, match="SONOPAIR_WORKERS is 'many'"):
        extract(raw)


# The store


def test_same_store_from_any_number_of_processes(raw, monkeypatch):
    for number in range(5):
        write_video(raw / f"{number}.avi", film(8 + 7 * number, seed=number))
    text_as_video(raw)
    files = {}
    for number in ("1", "2", "3"):
        monkeypatch.setenv("SONOPAIR_WORKERS", number)
        extract(raw)
        files[number] = [path.read_bytes() for path in sorted(Path("data/frames/custom").iterdir())]
    assert files["1"] == files["2"] == files["3"]
    assert len(files["1"]) == 4                                               # frames.npy, frames.csv, clips.csv, facts.json


def test_store_round_trip(raw):
    write_video(raw / "a.avi", film(20))
    write_images(raw / "b", film(3))
    data = extract(raw)
    assert data.frames.dtype == np.uint8
    assert data.frames.shape == (13, 32, 32)
    assert list(data.frame_table["row"]) == list(range(13))
    assert list(data.frame_table["clip"]) == ["a.avi"] * 10 + ["b"] * 3
    assert list(data.clip_table["frames_kept"]) == [10, 3]
    assert data.clip_table["checksum"].str.fullmatch("[0-9a-f]{32}").all()
    assert data.clip_table["checksum"].nunique() == 2


def test_the_fans_geometry_is_in_the_table_and_empty_where_it_is_not_known(raw, monkeypatch):
    """Of a clip whose fan fills the picture as a linear probe's does, of one without a fan, and of one that is left out."""
    inside = np.zeros((48, 64), np.uint8)
    inside[4:44, 17:47] = 1
    write_video(raw / "a.avi", [frame * inside[..., None] for frame in film(20)])
    specks = [np.zeros((48, 64, 3), np.uint8) for _ in range(20)]
    for number, frame in enumerate(specks):
        frame[4:8, 10 : 12 + number % 2] = 200
    write_video(raw / "b.avi", specks)
    text_as_video(raw)
    data = extract(raw)
    known, unknown, bad = (line(data, clip)[store.FAN].astype(float) for clip in ("a.avi", "b.avi", "bad.mp4"))
    assert line(data, "a.avi").crop == "fan" and line(data, "b.avi").crop == "full"
    assert known["fan_half_angle"] == pytest.approx(0.01) and known["fan_apex_x"] == 0.5
    assert known["fan_far"] - known["fan_near"] == pytest.approx(1, abs=0.01)
    assert unknown.isna().all() and bad.isna().all()
    fields = pd.read_csv("data/frames/custom/clips.csv", dtype=str, keep_default_na=False).set_index("clip")[store.FAN]
    assert (fields.loc[["b.avi", "bad.mp4"]] == "").all(axis=None) and (fields.loc["a.avi"].str.len() <= 8).all()


def test_copies_have_the_same_checksum(raw):
    write_video(raw / "a.avi", film(20))
    shutil.copy(raw / "a.avi", raw / "b.avi")
    assert extract(raw).clip_table["checksum"].nunique() == 1


@pytest.mark.parametrize("before", [False, True])
def test_interrupted_run_leaves_no_half_store(raw, monkeypatch, before):
    write_video(raw / "a.avi", film(20))
    if before:
        extract(raw)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(extract_frames, "_join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(raw)
    assert sorted(path.name for path in Path("data/frames").iterdir()) == (["custom"] if before else [])


# Masks


@pytest.fixture
def breasts(workspace, monkeypatch):
    """BUSI with one benign image of two lesions that overlap and one normal image, 80 x 100 px with black sides."""
    monkeypatch.setenv("SONOPAIR_WORKERS", "1")
    folder = workspace / "data/raw/breast"
    rng = np.random.default_rng(0)
    for label in ("benign", "normal"):
        (folder / label).mkdir(parents=True)
        image = np.zeros((80, 100), np.uint8)
        image[8:72, 18:82] = rng.integers(60, 120, (64, 64))
        cv2.imwrite(str(folder / label / f"{label} (1).png"), image)
    for name, (x, y) in {"_mask": (40, 30), "_mask_1": (51, 35)}.items():
        mask = cv2.ellipse(np.zeros((80, 100), np.uint8), (x, y), (13, 9), 20, 0, 360, 255, -1)
        cv2.imwrite(str(folder / f"benign/benign (1){name}.png"), mask)
    return folder


def extract_breast():
    extract_frames.main(source="breast", collection="raw", **PARAMS)
    return store.read("data/frames/breast"), np.load("data/frames/breast/masks.npy")


def test_masks_are_cropped_and_scaled_with_their_image(breasts):
    data, masks = extract_breast()
    clip = data.clip_table.iloc[0]
    left, top, width, height = (int(clip[f"crop_{side}"]) for side in ("left", "top", "width", "height"))
    assert max(width, height) < 68                                            # the black sides are off
    expected = np.zeros((32, 32), np.uint8)
    for number, name in enumerate(("_mask", "_mask_1"), 1):
        drawn = cv2.imread(str(breasts / f"benign/benign (1){name}.png"), cv2.IMREAD_GRAYSCALE) > 0
        fine = np.kron(drawn[top : top + height, left : left + width], np.ones((32, 32)))     # 32 parts to a pixel
        for row in range(32):
            for column in range(32):                                          # a pixel of the store covers so many parts
                if fine[row * height : (row + 1) * height, column * width : (column + 1) * width].mean() >= 0.5:
                    expected[row, column] = number
    assert masks.dtype == np.uint8 and masks.shape == data.frames.shape
    assert np.array_equal(masks[0], expected) and set(np.unique(expected)) == {0, 1, 2}
    assert not masks[1].any()
    assert sorted(path.name for path in Path("data/frames/breast").iterdir()) == [
        "clips.csv", "facts.json", "frames.csv", "frames.npy", "masks.npy"]


@pytest.mark.parametrize(("white", "kind"), [(1, np.uint8), (1, np.uint16), (255, np.uint16), (65535, np.uint16)])
def test_white_may_be_any_usual_number_in_a_mask(breasts, white, kind):
    _, expected = extract_breast()
    for path in (breasts / "benign").glob("*_mask*.png"):
        cv2.imwrite(str(path), (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0).astype(kind) * white)
    assert np.array_equal(extract_breast()[1], expected) and expected.any()


def test_what_is_transparent_is_no_part_of_a_mask(breasts):
    """As in masks that are white everywhere and hide all but the lesion."""
    _, expected = extract_breast()
    for path in (breasts / "benign").glob("*_mask*.png"):
        alpha = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path), np.dstack([np.full_like(alpha, 255)] * 3 + [alpha]))
    assert np.array_equal(extract_breast()[1], expected) and expected.any()


@pytest.mark.parametrize("factor", [5, 40])
def test_masks_of_an_image_that_is_shrunk_when_it_is_read(breasts, factor):
    _, expected = extract_breast()
    for path in breasts.rglob("*.png"):
        cv2.imwrite(str(path), np.kron(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.ones((factor, factor), np.uint8)))
    data, masks = extract_breast()
    assert (data.clip_table["height"] == 80 * factor).all() == (factor == 5) and (data.clip_table["left_out"] == "").all()
    assert np.mean(masks != expected) < 0.02 and expected.any()


def test_numbers_of_classes_are_no_mask(breasts):
    path = breasts / "benign/benign (1)_mask.png"
    cv2.imwrite(str(path), (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0).astype(np.uint8) * 2)
    reason = extract_breast()[0].clip_table["left_out"][0]
    assert "its mask benign (1)_mask.png is neither white on black nor 1 on 0: its largest value is 2" in reason


@pytest.mark.parametrize("content", [b"", cv2.imencode(".png", np.zeros((100, 80), np.uint8))[1].tobytes()])
def test_a_mask_that_does_not_fit_leaves_its_image_out(breasts, content):
    (breasts / "benign/benign (1)_mask.png").write_bytes(content)
    data, masks = extract_breast()
    assert "its mask benign (1)_mask.png is damaged or not of the image's size" in data.clip_table["left_out"][0]
    assert len(data.frames) == len(masks) == 1


# Processes


def halve(number):
    if number == 13:
        os._exit(1)                                                           # as a decoder that crashes
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number // 2


@pytest.mark.parametrize("count", [1, 3])
def test_job_that_ends_its_process_costs_that_job_alone(count):
    results = dict(workers.each(halve, {number: (number,) for number in [*range(20), 13.0]}, count))
    assert {key: result for key, result in results.items() if not isinstance(result, Exception)} == {
        number: number // 2 for number in range(0, 20, 2)
    }
    assert type(results[13]).__name__ == "BrokenProcessPool"
    assert str(results[7]) == "7 is odd"


def crash(path, *_, **__):
    if path.name == "bad.avi":
        os._exit(1)
    raise ValueError("two\nlines")


def test_crashing_decoder_leaves_that_clip_out(raw, monkeypatch):
    for name in ("a.avi", "bad.avi"):
        write_video(raw / name, film(4))
    monkeypatch.setattr(extract_frames, "extract", crash)
    with pytest.raises(UserError, match=r"a.avi: could not be read \(ValueError: two lines\)"):
        extract(raw)
    result = dict(workers.each(crash, {0: (Path("bad.avi"),)}, 1))[0]
    assert extract_frames._columns(result)["left_out"].startswith("the decoder crashed on it")
