"""Every clip of the real sets opens, and as many frames come out as decoding one after the other gives."""

import math
import os
from pathlib import Path

import cv2
import pytest

from stages import extract_frames
from stages.lib import processes, store
from stages.sources import breast, gallbladder_ba

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("US_CLIPS" not in os.environ, reason="US_CLIPS names no folder with pocus/, covid_blues/ …"),
]
REAL = Path(os.environ.get("US_CLIPS", "")).resolve()
CLIPS = {"pocus": 131, "covid_blues": 253}


def decoded(path):
    """Frames of a video by reading one after the other, and the frame rate that its header states."""
    video = cv2.VideoCapture(path)
    frames = 0
    while video.read()[0]:
        frames += 1
    return frames, video.get(cv2.CAP_PROP_FPS)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """The stores of both video sets, from a project whose data/raw/ links to them."""
    here = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("real"))
    Path("data/raw").mkdir(parents=True)
    stores = {}
    for source in CLIPS:
        Path("data/raw", source).symlink_to(REAL / source)
        extract_frames.main(source=source, collection="raw", frame_rate_hz=3.0, max_frames_per_clip=30,
                            assumed_frame_rate_hz=25.0, size_px=16)
        stores[source] = store.read(Path("data/frames", source))
    yield stores
    os.chdir(here)


@pytest.mark.parametrize("source", CLIPS)
def test_every_clip_opens_with_the_frames_that_decoding_gives(extracted, source):
    clips = extracted[source].clip_table
    assert len(clips) == CLIPS[source]
    assert not clips["left_out"].any()
    assert (clips["crop"] != "full").all()
    found = dict(processes.each(decoded, {path: (path,) for path in clips["path"]}, 2))
    # of clips with a steady frame rate just as many frames as the POCUS data set's own rule takes
    for clip in clips.itertuples():
        frames, fps = found[clip.path]
        assert clip.frames_read == frames, clip
        if abs(clip.fps - fps) < 0.01 * fps and clip.fps >= 3:
            assert clip.frames_kept + clip.frames_black == min(30, math.ceil(frames / int(fps / 3))), clip


def test_frame_counts_of_pocus(extracted):
    clips = extracted["pocus"].clip_table
    three = clips[(clips["subset"] == "convex") & clips["label"].isin(["covid", "pneumonia", "regular"])]
    assert dict(three["label"].value_counts()) == {"covid": 27, "pneumonia": 36, "regular": 56}
    assert (clips["patient"] != "").all()
    # Born et al.'s rule gives 465, 449 and 1,152: one less where the rate changes within a clip, and one that is black
    assert dict(three.groupby("label")["frames_kept"].sum()) == {"covid": 464, "pneumonia": 449, "regular": 1151}
    assert three["frames_black"].sum() == 1


def test_patients_of_covid_blues(extracted):
    assert extracted["covid_blues"].clip_table["patient"].nunique() == 43


def test_image_sets():
    images = breast.clips(REAL / "busi")
    assert dict(images["label"].value_counts()) == {"benign": 437, "malignant": 210, "normal": 133}
    assert images["masks"].str.split(";").map(len).sum() == 798
    clips = gallbladder_ba.clips(REAL / "gallbladder_ba")
    assert len(clips) == 4546
    assert not clips["left_out"].any()
