"""Damaged files of every kind: each is read or left out with a sentence, soon, in little memory."""

import gzip
import resource
import time

import cv2
import nibabel
import nrrd
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, JPEG2000Lossless, RLELossless
from recordings import speckle, write_av
from test_dicom import cine, palette, region, save
from test_readers import write_volume

from stages import extract_frames
from stages.lib.clips import store, workers
from stages.lib.clips.extraction import Recipe, extract

FILES = 1000
EXTREMES = (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f")
HANG_S, MEMORY_BYTES = 20, 2 << 30
VIDEOS = [("a.mp4", "libx264", "yuv420p"), ("b.avi", "mjpeg", "yuvj420p"), ("c.mkv", "ffv1", "yuv420p10le"),
          ("d.mpg", "mpeg2video", "yuv420p"), ("e.webm", "libvpx-vp9", "yuv420p"), ("f.mov", "png", "rgba"),
          ("g.ts", "libx264", "yuv420p"), ("h.avi", "rawvideo", "bgr24")]  # fmt: skip
RECIPE = Recipe(frame_rate_hz=5.0, max_frames_per_clip=10, assumed_frame_rate_hz=20.0, size_px=32)


def write_all(folder):
    """A sound file of each kind."""
    frames = speckle(12)
    pages = np.stack(frames)
    for name, codec, pix_fmt in VIDEOS:
        write_av(folder / name, frames, fps=25, codec=codec, pix_fmt=pix_fmt)
    pictures = [Image.fromarray(frame) for frame in frames]
    for name in ("i.gif", "j.webp", "k.png"):
        pictures[0].save(folder / name, save_all=True, append_images=pictures[1:], duration=40)
    for name in ("l.png", "m.jpg", "n.bmp", "o.pgm", "p.webp"):
        pictures[0].save(folder / name)
    cv2.imwrite(str(folder / "q.png"), np.dstack([frames[0].astype(np.uint16) * 16] * 3))
    for name, packing in (("r.tif", None), ("s.tif", "lzw"), ("t.tif", "jpeg")):
        tifffile.imwrite(folder / name, pages, compression=packing, photometric="minisblack")
    tifffile.imwrite(folder / "u.tif", pages / np.float32(255), photometric="minisblack")
    write_volume(folder / "v.mha", frames)
    write_volume(folder / "w.mha", frames, packed=True)
    nrrd.write(str(folder / "x.nrrd"), pages.T)
    nibabel.Nifti1Image(pages.T, np.eye(4)).to_filename(folder / "y.nii")
    nibabel.Nifti1Image(pages.T, np.eye(4)).to_filename(folder / "z.nii.gz")
    parts = [region(5, 5, 40, 30)]
    save(cine(frames, FrameTime="50", SequenceOfUltrasoundRegions=parts), folder / "A.dcm")
    save(cine([np.dstack([frame] * 3) for frame in frames], ExplicitVRBigEndian, "RGB"), folder / "B.dcm")
    save(palette(cine(frames, DeflatedExplicitVRLittleEndian, "PALETTE COLOR")), folder / "C.dcm")
    for name, syntax in (("D.dcm", RLELossless), ("E.dcm", JPEG2000Lossless)):
        data = cine(frames)
        data.compress(syntax, generate_instance_uid=False)
        save(data, folder / name)
    return sorted(folder.iterdir())


def mutated(data, other, rng):
    """A file's bytes, flipped, overwritten, cut, joined with another's, or several of these."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(data))) if rng.random() < 0.5 else int(rng.integers(min(len(data), 600)))  # headers, too
        match rng.integers(6):
            case 0:
                for at in rng.integers(len(data), size=rng.integers(1, 20)):
                    data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[place : place + 4] = EXTREMES[rng.integers(len(EXTREMES))]
            case 2:
                length = int(rng.integers(1, 2000))
                data[place : place + length] = rng.bytes(length)
            case 3:
                del data[max(1, place) :]
            case 4:
                data[place:] = other[int(rng.integers(len(other))) :] or b"0"
            case 5:
                del data[place : place + int(rng.integers(1, 300))]
        data = data or bytearray(b"0")
    return bytes(data)


def watched(path, target):
    """The columns of one clip, the seconds it took, and the peak of the process's memory in bytes."""
    start = time.monotonic()
    facts = extract(path, float("nan"), target, [], None, RECIPE)
    return facts, time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.fuzz
def test_a_thousand_damaged_files(tmp_path):
    (tmp_path / "sound").mkdir()
    sound = [path.read_bytes() for path in write_all(tmp_path / "sound")]
    names = sorted(path.name for path in (tmp_path / "sound").iterdir())
    rng = np.random.default_rng(0)
    jobs = {}
    for number in range(FILES):
        kind, other = number % len(sound), int(rng.integers(len(sound)))
        path = tmp_path / f"{number}_{names[kind]}"
        path.write_bytes(mutated(sound[kind], sound[other], rng))
        jobs[path.name] = (path, tmp_path / f"{number}")
    results = dict(workers.each(watched, jobs, workers.workers()))
    assert results.keys() == jobs.keys()
    crashed = [name for name, result in results.items() if isinstance(result, Exception)]
    assert not crashed, [(name, results[name]) for name in crashed]
    for name, (facts, seconds, memory) in results.items():
        assert seconds < HANG_S and memory < MEMORY_BYTES, (name, seconds, memory)
        assert bool(facts.get("left_out")) != bool(facts.get("frames_kept")), (name, facts)          # read, or a sentence
    kept = sum("frames_kept" in facts for facts, _, _ in results.values())
    assert 0.2 * FILES < kept < 0.95 * FILES                                                          # neither all nor none


def test_sound_and_bad_files_through_the_stage(workspace, monkeypatch, capfd):
    """One of each kind is kept; what cannot be read is named in clips.csv, and the run goes on."""
    monkeypatch.setenv("SONOPAIR_WORKERS", "2")
    folder = workspace / "data/raw/custom"
    folder.mkdir(parents=True)
    sound = [path.name for path in write_all(folder)]
    (folder / "deep").mkdir()
    (folder / "deep/loop").symlink_to(folder, target_is_directory=True)
    (folder / "cut.dcm").write_bytes((folder / "A.dcm").read_bytes()[:400])
    with gzip.open(folder / "bomb.nii.gz", "wb") as file:
        header = nibabel.Nifti1Image(np.zeros((8, 8, 1), np.uint8), np.eye(4)).header
        header["dim"][1:4] = [4000, 4000, 1000]
        file.write(header.binaryblock + bytes(1 << 16))
    bad = ["cut.dcm", "bomb.nii.gz", "deep/loop"]
    pd.DataFrame({"path": [*sound, *bad], "patient": "", "label": ""}).to_csv(folder / "clips.csv", index=False)
    extract_frames.main("custom", "raw", **RECIPE._asdict())
    clips = store.read("data/frames/custom").clip_table.set_index("clip")
    assert (clips.loc[sound, "left_out"] == "").all() and (clips.loc[sound, "frames_kept"] > 0).all()
    assert (clips.loc[bad, "left_out"] != "").all()
    assert "Traceback" not in "".join(capfd.readouterr())
