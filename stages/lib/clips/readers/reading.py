"""A clip from its file to frames in memory: which frames, at which times, all of one size, 8 bits, square pixels."""

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.lib.clips import sampling
from stages.lib.clips.readers import kinds, pixels
from stages.lib.clips.readers.recording import Frames, Recording
from stages.lib.clips.readers.times import plausible

LEAP_S = 60  # so is a time stamp this far from the one before it


class Clip(NamedTuple):
    """images: T x uint8 [H, W], all of one size on square pixels; numbers and times_s of each in the recording; `facts` for
    clips.csv; region: left, top, width, height of the tissue, where the file states it; files: others that hold its pixels;
    shape: height and width of the pictures before they were put on square pixels or shrunk."""

    images: list[np.ndarray]
    numbers: list[int]
    times_s: list[float]
    facts: dict
    region: tuple[int, int, int, int] | None
    files: list[Path]
    shape: tuple[int, int] | None


def read(path: Path, fps: float, rate_hz: float, most: int, assumed_hz: float) -> Clip:
    """Sample a clip, a file or a folder of images.

    Args:
        fps: frame rate that the source states, NaN if none.
        rate_hz, most: how many frames a second, and in all, are wanted (stages/lib/clips/sampling.py).
        assumed_hz: frame rate of a video that states none that can be believed.

    Raises:
        Unreadable: with the reason for the user.
    """
    recording = kinds.open_clip(path)
    notes = []
    sample, used_fps = _sampled(recording, fps, rate_hz, most, assumed_hz, notes)
    frames = _of_one_size(sample.frames, recording.names, notes)
    images, rule = pixels.to_8_bits([frame.image for frame in frames], recording.bits)
    facts = {"frames_read": sample.read, "frames_damaged": recording.damaged, "fps": round(used_fps, 3)}
    facts |= {"burned_in": "yes" if recording.burned_in else "", "grey": rule, "notes": "; ".join(recording.notes + notes)}
    region = recording.region
    if images:
        height, width = images[0].shape
        down, right = height / recording.shape[0], width / recording.shape[1]
        facts |= {"height": height, "width": width, "mm_per_px": round(recording.mm_per_px / down, 6)}
        region = region and tuple(round(side * scale) for side, scale in zip(region, (right, down) * 2, strict=True))
    numbers, times_s = [frame.number for frame in frames], [frame.time_s for frame in frames]
    return Clip(images, numbers, times_s, facts, region, recording.files, recording.shape)


def _sampled(
    recording: Recording, fps: float, rate_hz: float, most: int, assumed_hz: float, notes: list[str]
) -> tuple[sampling.Sample, float]:
    """The frames due, and the frame rate of the recording.

    The source's own frame rate (`fps`) goes before time stamps, these before the rate that the file states, and this before
    `assumed_hz`; what the file says has to be plausible. The header's frame count is never asked. Frames of a clip
    without any rate (images) have no times.
    """
    overruled, believed = not math.isnan(fps), plausible(recording.fps)
    stated = fps if overruled else recording.fps if believed else assumed_hz if recording.timed else math.nan
    every_s = sampling.interval(stated, rate_hz)
    sample = sampling.sample(_steady(recording, stated, stamped=not overruled), every_s, most)
    whole = sample.span_s > 0 and not (recording.damaged and believed)  # of a damaged clip frames are missing
    measured = (sample.read - 1) / sample.span_s if whole else stated
    if overruled and believed and not recording.fps / 2 <= fps <= recording.fps * 2:
        notes.append(f"its file states {recording.fps:.6g} frames a second, the list of clips {fps:g}: the list is used")
    if overruled or math.isnan(stated):
        if not (overruled or believed or math.isnan(recording.fps)):
            notes.append(f"its file states {recording.fps:.6g} frames a second, which is not believed: no times")
        return sample, measured
    if not plausible(measured):
        notes.append(f"its time stamps give {measured:.6g} frames a second, which is not believed: {stated:g} taken")
        return sampling.sample(_steady(recording, stated, stamped=False), every_s, most), stated
    if recording.leaps:
        notes.append(f"{recording.leaps} of its time stamps leap by a minute or more: the last frame length is used")
    if not believed and recording.untimed:
        said = "no frame rate" if math.isnan(recording.fps) else f"{recording.fps:.6g} frames a second, which is not believed"
        notes.append(f"its file states {said}: {stated:g} taken")
    return sample, measured


def _steady(recording: Recording, fps: float, stamped: bool) -> Frames:
    """Times from 0 on and decoders of each frame; where a time stamp is missing or impossible, a frame's length is added.

    After a leap the time stamps count from there, and the frame's length is the last one: a leap spoils the rate of its file.
    """
    recording.damaged, recording.untimed, recording.leaps = 0, 0, 0
    time, start, step = -1 / fps, math.nan, 1 / fps
    for stamp, decode in recording.frames():
        start = stamp - time - 1 / fps if math.isnan(start) else start  # the first time stamp that is there
        since = stamp - start
        believed, leaps = 0 < since - time < LEAP_S, abs(since - time) >= LEAP_S
        recording.untimed += not believed
        recording.leaps += leaps
        if stamped and believed:
            step, time = since - time, since
        else:
            time += step if stamped and leaps else 1 / fps
        start = stamp - time if leaps else start
        yield time, partial(_decoded, decode, recording)


def _decoded(decode: Callable[[], np.ndarray | None], recording: Recording) -> np.ndarray | None:
    """The frame on square pixels, or None if it is damaged."""
    try:
        image = decode()
    except MemoryError:
        raise
    except Exception:  # whatever a decoder raises on damaged bytes
        image = None
    if image is None or not image.size:
        recording.damaged += 1
        return None
    recording.shape = recording.shape or image.shape
    return pixels.fitted(image, recording.aspect)


def _of_one_size(frames: list[sampling.Frame], names: list[str], notes: list[str]) -> list[sampling.Frame]:
    """The frames of the commonest size; the others are named in `notes` (where no size is common, they are scaled to it)."""
    sizes = Counter(frame.image.shape for frame in frames)
    if len(sizes) < 2:
        return frames
    (height, width), count = sizes.most_common(1)[0]
    odd = [frame for frame in frames if frame.image.shape != (height, width)]
    named = [f"{names[frame.number] if names else f'frame {frame.number}'} ({frame.image.shape[1]} × {frame.image.shape[0]})"
             for frame in odd]
    listed = ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")
    if 2 * count > len(frames):
        notes.append(f"not of the size {width} × {height} and left out: {listed}")
        return [frame for frame in frames if frame.image.shape == (height, width)]
    notes.append(f"pictures of {len(sizes)} sizes, scaled to {width} × {height}: {listed}")
    return [frame._replace(image=pixels.scaled(frame.image, height, width)) for frame in frames]
