"""What was computed before: the same outputs with it and without, a key of all that decides, any damage, a bound."""

import json
import math
import os
import random
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from recordings import write_av

from stages import extract_frames
from stages.lib.clips import extraction, workers
from stages.lib.clips.crop.given import Given
from stages.lib.clips.extraction import Recipe
from stages.lib.clips.readers import reading
from stages.lib.params import UserError
from stages.lib.running import cache

RECIPE = Recipe(frame_rate_hz=5.0, max_frames_per_clip=4, assumed_frame_rate_hz=20.0, size_px=32)


@pytest.fixture
def kept(workspace, monkeypatch):
    """An empty cache, outside the project."""
    monkeypatch.setenv("SONOPAIR_CACHE", str(workspace / "cache"))
    monkeypatch.setenv("SONOPAIR_CACHE_GIB", "1")
    monkeypatch.setenv("SONOPAIR_WORKERS", "2")
    return workspace / "cache"


@pytest.fixture
def read(monkeypatch):
    """The clips that a reader was asked for."""
    asked, reader = [], reading.read
    monkeypatch.setattr(reading, "read", lambda path, *rest: asked.append(path.name) or reader(path, *rest))
    return asked


def speckle(count, seed=0):
    grey = np.random.default_rng(seed).normal(110, 30, (count, 48, 64)).clip(0, 255).astype(np.uint8)
    return [cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) for frame in grey]


def write_volume(path, level):
    """A MetaImage whose pixels lie in another file."""
    pixels = np.random.default_rng(level).integers(20, 200, (6, 40, 50), np.uint8)
    path.with_suffix(".raw").write_bytes(pixels.tobytes())
    path.write_text("ObjectType = Image\nNDims = 3\nDimSize = 50 40 6\nElementType = MET_UCHAR\n"
                    f"ElementDataFile = {path.with_suffix('.raw').name}\n")


def write_clips(folder):
    """A clip of each kind: a video, a folder of images with a note, a still, a volume in two files, black frames, no clip."""
    folder.mkdir(parents=True)
    write_av(folder / "a.mp4", speckle(20), fps=10.0)
    (folder / "b").mkdir()
    for number, frame in enumerate(speckle(3, seed=1)):
        cv2.imwrite(str(folder / "b" / f"{number}.png"), frame)
    (folder / "b" / "film.mkv").write_bytes(b"no image")
    cv2.imwrite(str(folder / "c.png"), speckle(1, seed=2)[0])
    write_volume(folder / "d.mhd", 1)
    cv2.imwrite(str(folder / "e.png"), np.zeros((40, 40), np.uint8))
    (folder / "f.mp4").write_bytes(b"no clip")
    paths = ["a.mp4", "b", "c.png", "d.mhd", "e.png", "f.mp4"]
    pd.DataFrame({"path": paths, "patient": "", "label": ""}).to_csv(folder / "clips.csv", index=False)


def outputs():
    """All files that the stage writes, and their bytes; runs it."""
    extract_frames.main("custom", "raw", **RECIPE._asdict())
    files = [path for folder in ("data/frames", "reports") for path in Path(folder).rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files}


def damaged(path):
    """An entry, cut off or with a byte changed, at random places."""
    data, draw = path.read_bytes(), random.Random(0)
    for _ in range(20):
        place = draw.randrange(len(data))
        yield data[:place]
        yield data[:place] + bytes([data[place] ^ draw.randrange(1, 256)]) + data[place + 1 :]
    yield b""


def test_outputs_are_the_same_with_and_without_and_after_any_damage(kept, monkeypatch):
    write_clips(Path("data/raw/custom"))
    with monkeypatch.context() as patch:
        patch.setenv("SONOPAIR_CACHE_GIB", "0")
        expected = outputs()
    assert not kept.exists() and len(expected) == 5
    left_out = pd.read_csv("data/frames/custom/clips.csv", keep_default_na=False).set_index("clip")["left_out"]
    assert left_out[left_out != ""].index.tolist() == ["e.png", "f.mp4"]
    assert outputs() == expected
    entries = sorted(kept.iterdir())
    assert len(entries) == 5                                                        # of all that can be read
    assert outputs() == expected and sorted(kept.iterdir()) == entries
    entries[0].write_bytes(entries[0].read_bytes()[:-7])
    entries[1].unlink()
    entries[2].write_bytes(b"")
    assert outputs() == expected and sorted(kept.iterdir()) == entries


def test_the_stage_takes_frames_from_the_cache(kept):
    write_clips(Path("data/raw/custom"))
    outputs()
    before, known = np.load("data/frames/custom/frames.npy"), cache.of_room("clips")
    for entry in kept.iterdir():
        arrays = known.get(entry.name)
        known.put(entry.name, {name: 255 - array if name == "frames" else array for name, array in arrays.items()})
    outputs()
    np.testing.assert_array_equal(np.load("data/frames/custom/frames.npy"), 255 - before)


def test_an_entry_that_is_damaged_counts_as_missing(kept):
    arrays = {"frames": np.arange(50, dtype=np.uint8).reshape(2, 5, 5), "facts": cache.pack(["x", math.inf, None])}
    known = cache.of_room("clips")
    known.put("entry.sonopair", arrays)
    for name, array in known.get("entry.sonopair").items():
        np.testing.assert_array_equal(array, arrays[name], strict=True)
    for data in damaged(kept / "entry.sonopair"):
        (kept / "entry.sonopair").write_bytes(data)
        assert known.get("entry.sonopair") is None
    assert known.get("another.sonopair") is None


def extracted(path="data/raw/custom/a.mp4", fps=math.nan, masks=(), crop=None, pictured=False, code="", known=True, **recipe):
    """What is found out about a clip, as text: NaN is not equal to itself."""
    known = cache.of_room("clips")._replace(surroundings=code) if known else None
    return json.dumps(extraction.extract(
        Path(path), fps, Path("target"), list(masks), crop, RECIPE._replace(**recipe), pictured, known))  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"fps": 10.0}, {"frame_rate_hz": 4.0}, {"max_frames_per_clip": 3}, {"assumed_frame_rate_hz": 10.0}, {"size_px": 16},
     {"geometry": "stretched"}, {"pictured": True}, {"code": "another"}, {"crop": Given((0, 0, 20, 20), None)},
     {"crop": Given((0, 0, 20, 21), None)}, {"crop": Given(None, Path("mask.png"))}],
    ids=str)  # fmt: skip
def test_what_decides_the_frames_is_in_the_key(kept, read, change):
    write_clips(Path("data/raw/custom"))
    cv2.imwrite("mask.png", np.full((48, 64), 255, np.uint8))
    extracted()
    extracted(crop=Given((0, 0, 20, 22), None))
    extracted()
    assert len(read) == 2
    found = extracted(**change)
    assert len(read) == 3 and extracted(**change) == found
    assert len(read) == 3


def test_the_parameters_of_extraction_are_all_tried_above():
    assert set(Recipe._fields) | set(extraction.Wanted._fields) == {
        "fps", "frame_rate_hz", "max_frames_per_clip", "assumed_frame_rate_hz", "size_px", "geometry", "pictured", "crop",
        "recipe", "masks"}


def changed_bytes():
    write_av(Path("data/raw/custom/a.mp4"), speckle(20, seed=9), fps=10.0)


def changed_pixels_elsewhere():
    (Path("data/raw/custom") / "d.raw").write_bytes(bytes(range(100, 200)) * 120)


def gone_pixels_elsewhere():
    (Path("data/raw/custom") / "d.raw").unlink()


def another_file():
    (Path("data/raw/custom") / "b" / "other.mkv").touch()


def renamed_image():
    os.rename("data/raw/custom/b/0.png", "data/raw/custom/b/9.png")


@pytest.mark.parametrize(
    ("change", "path"),
    [(changed_bytes, "a.mp4"), (changed_pixels_elsewhere, "d.mhd"), (gone_pixels_elsewhere, "d.mhd"), (another_file, "b"),
     (renamed_image, "b")])  # fmt: skip
def test_a_clip_whose_files_changed_is_read_again(kept, read, change, path):
    write_clips(Path("data/raw/custom"))
    first = extracted(f"data/raw/custom/{path}")
    extracted(f"data/raw/custom/{path}")
    assert read == [path]
    change()
    found = extracted(f"data/raw/custom/{path}")
    assert read == [path] * 2
    assert found == extracted(f"data/raw/custom/{path}", known=False) != first


def test_a_mask_is_in_the_key_by_its_bytes(kept, read):
    write_clips(Path("data/raw/custom"))
    found = []
    for level in (0, 255, 255):
        cv2.imwrite("lesion.png", np.full((48, 64), level, np.uint8))
        extracted("data/raw/custom/c.png", masks=[Path("lesion.png")])
        found.append(np.load("target.masks.npy").max())
    assert (found, len(read)) == ([0, 1, 1], 2)


def test_a_copy_in_another_place_is_known(kept, read):
    write_clips(Path("data/raw/custom"))
    write_volume(Path("d.mhd"), 1)
    assert extracted("data/raw/custom/d.mhd") == extracted("d.mhd") and read == ["d.mhd"]


def test_surroundings_are_the_code_of_the_room_python_and_the_packages(workspace, monkeypatch):
    class Package:
        name, version = "av", "1"

    monkeypatch.setattr(cache, "STAGES", workspace)
    (workspace / "lib/clips/readers").mkdir(parents=True)
    seen = set()
    for path, text in (("a.py", "1"), ("a.py", "2"), ("readers/b.py", "2"), ("readers/c.py", "2")):
        (workspace / "lib/clips" / path).write_text(text)
        seen.add(cache.surroundings.__wrapped__("clips"))
    os.rename("lib/clips/readers/c.py", "lib/clips/c.py")
    seen.add(cache.surroundings.__wrapped__("clips"))
    monkeypatch.setattr(cache.importlib.metadata, "distributions", lambda: [Package])
    seen.add(cache.surroundings.__wrapped__("clips"))
    Package.version = "2"
    seen.add(cache.surroundings.__wrapped__("clips"))
    monkeypatch.setattr(cache.sys, "version", "4")
    assert len(seen | {cache.surroundings.__wrapped__("clips")}) == 8


def test_those_not_used_for_longest_go_and_nothing_else(kept, monkeypatch):
    monkeypatch.setenv("SONOPAIR_CACHE_GIB", str(3.5 / 1024))
    known = cache.of_room("clips")
    for number in range(6):
        known.put(f"{number}.sonopair", {"frames": np.zeros(1 << 20, np.uint8)})
        os.utime(kept / f"{number}.sonopair", (number, number))
    (kept / "thesis.tex").write_bytes(bytes(1 << 20))
    os.utime(kept / "thesis.tex", (0, 0))
    known.get("1.sonopair")
    known.trim()
    assert {path.name for path in kept.iterdir()} == {"1.sonopair", "4.sonopair", "5.sonopair", "thesis.tex"}


def write_and_read(known, seed):
    """Entries of different lengths under three names, in turns; returns how many of those that were there made sense."""
    draw, whole = random.Random(seed), 0
    for _ in range(300):
        name, value = f"{draw.randrange(3)}.sonopair", draw.randrange(1, 200)
        known.put(name, {"frames": np.full(value * 100, value, np.uint8)})
        found = known.get(name)
        there = [] if found is None else found["frames"].tolist()
        whole += there == [len(there) // 100] * len(there)
        if draw.random() < 0.05:
            (known.folder / name).unlink(missing_ok=True)
    return whole


def test_two_processes_may_write_and_read_at_once(kept):
    known = cache.of_room("clips")
    assert dict(workers.each(write_and_read, {seed: (known, seed) for seed in (1, 2)}, 2)) == {1: 300, 2: 300}
    assert {path.suffix for path in kept.iterdir()} == {".sonopair"} and 0 < len(list(kept.iterdir())) <= 3


def test_without_a_place_for_it_nothing_is_kept(kept, monkeypatch):
    known = cache.of_room("clips")
    kept.write_text("a file where the folder should be")
    known.put("entry.sonopair", {"frames": np.zeros(3)})
    assert known.get("entry.sonopair") is None
    known.trim()
    kept.unlink()
    monkeypatch.setattr(cache, "SPARE_BYTES", 1 << 60)                              # so much is never free
    known.put("entry.sonopair", {"frames": np.zeros(3)})
    assert list(kept.iterdir()) == []


def test_the_place_is_that_of_the_project_or_as_the_variable_says(monkeypatch):
    for name in ("SONOPAIR_CACHE", "SONOPAIR_CACHE_GIB", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    assert cache.of_room("clips")[:2] == (Path(".dvc/tmp/clips"), 10 * 2**30)
    monkeypatch.setenv("DVC_ROOT", "/project")
    assert cache.of_room("clips").folder == Path("/project/.dvc/tmp/clips")
    monkeypatch.setenv("SONOPAIR_CACHE", "/fast/disk")
    assert cache.of_room("clips").folder == Path("/fast/disk")
    monkeypatch.setenv("SONOPAIR_CACHE_GIB", "0")
    assert cache.of_room("clips") is None


@pytest.mark.parametrize("wanted", ["many", "-1", "nan"])
def test_an_impossible_bound_is_one_sentence(workspace, monkeypatch, wanted):
    monkeypatch.setenv("SONOPAIR_CACHE_GIB", wanted)
    with pytest.raises(UserError, match=f"SONOPAIR_CACHE_GIB is '{wanted}'; it must be a number of GiB"):
        extract_frames.main("custom", "raw", **RECIPE._asdict())
