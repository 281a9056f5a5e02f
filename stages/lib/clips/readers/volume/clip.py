"""Volume files that hold a picture in two dimensions over time: MetaImage, NRRD, NIfTI; one frame in memory at a time."""

import math
import zlib
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from stages.lib.clips.readers import pixels
from stages.lib.clips.readers.recording import Frames, Recording, Unreadable
from stages.lib.clips.readers.volume import metaimage, nifti, nrrd
from stages.lib.clips.readers.volume.header import Volume
from stages.lib.clips.readers.volume.unpacking import unpacked

BROKEN = (EOFError, OSError, ValueError, zlib.error)
UNPACKED_BYTES, UNPACKED_TIMES = 1 << 30, 100  # a file that grows beyond both is made to fill the memory; clips shrink to 1/50
META_STARTS = (b"ObjectType", b"NDims", b"Comment = ")


def is_volume(start: bytes) -> bool:
    """Whether a file that begins so, once unpacked, is one of the three."""
    is_nifti = start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] in (b"n+2\0", b"ni2\0")
    return is_nifti or start.startswith((b"NRRD000", *META_STARTS))


def open_volume(path: Path, start: bytes) -> Recording:
    """The frames of a volume, put upright.

    Args:
        start: first bytes of the file, unpacked.

    Raises:
        Unreadable: a damaged header, more than one dimension beside time, or not as long as it states.
    """
    try:
        volume = _header(path, start)
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # damaged headers fail in many ways
        raise Unreadable(f"its header is damaged or incomplete ({type(error).__name__})") from error
    _require_believable(volume)
    aspect, mm_per_px = volume.spacing_mm[0] / volume.spacing_mm[1], volume.spacing_mm[1]
    if volume.orientation[0] in "FN":  # the first axis of the file runs along the depth
        aspect, mm_per_px = 1 / aspect, volume.spacing_mm[0]
    notes = [volume.note] if volume.note else []
    aspect = pixels.believed_aspect(aspect, notes)
    others = [volume.file] if volume.file != path else []
    clip = Recording(frames=None, fps=volume.fps, aspect=aspect, mm_per_px=mm_per_px, files=others, notes=notes)
    clip.frames = partial(_frames, volume, clip)
    return clip


def _header(path: Path, start: bytes) -> Volume:
    if start.startswith(b"NRRD000"):
        return nrrd.read(path)
    return metaimage.read(path) if start.startswith(META_STARTS) else nifti.read(path, start)


def _require_believable(volume: Volume) -> None:
    if not volume.file.exists():
        raise Unreadable(f"its data file {volume.file.name} is missing")
    there = volume.file.stat().st_size
    total = volume.frame_bytes * volume.count
    if volume.width * volume.height > pixels.MOST_PX or min(volume.width, volume.height, volume.count) < 1:
        raise Unreadable(f"pictures of {volume.width} × {volume.height}: not believed")
    if volume.count > 1 and volume.width <= 4:
        raise Unreadable(f"pictures of {volume.width} × {volume.height}: its first axis may be that of colours; its header "
                         "must say so")  # fmt: skip
    if volume.dtype.kind == "c" or volume.channels not in (1, 3, 4):
        values = "complex values" if volume.dtype.kind == "c" else f"{volume.channels} values a pixel"
        raise Unreadable(f"{values}: no picture, but raw echoes or the like")
    if volume.mixed and total > UNPACKED_BYTES:
        raise Unreadable("time is its first axis, and it unpacks to more than 1 GiB: save it with time as the last axis")
    if volume.packing != "raw" and total > max(UNPACKED_BYTES, UNPACKED_TIMES * there):
        raise Unreadable(f"it unpacks to {total / (1 << 30):.1f} GiB, {total / there:.0f} times its size: not believed")
    if volume.packing == "raw" and there - volume.offset < volume.frame_bytes:
        raise Unreadable("its pixel data are cut off: not one whole frame")


def _frames(volume: Volume, clip: Recording) -> Frames:
    """Every frame that is there; those that are missing are counted as damaged."""
    with volume.file.open("rb") as file:
        file.seek(volume.offset)
        stream = unpacked(file, volume.packing)
        stream.read(volume.skipped)
        if volume.mixed:
            stream = _sorted_out(volume, stream)
        for number in range(volume.count):
            try:
                data = stream.read(volume.frame_bytes)
            except BROKEN:
                data = b""
            if len(data) < volume.frame_bytes:
                clip.damaged += volume.count - number
                return
            stamp = volume.stamps.get(number, math.nan)
            yield stamp, (_no_picture if number in volume.invalid else partial(_picture, volume, data))


def _sorted_out(volume: Volume, stream: BinaryIO) -> BinaryIO:
    """Frame after frame in memory, of a file in which their pixels alternate."""
    try:
        data = stream.read(volume.frame_bytes * volume.count)
        frames = np.frombuffer(data, volume.dtype).reshape(-1, volume.count).T
    except BROKEN:
        return BytesIO()
    return BytesIO(frames.tobytes())


def _no_picture() -> None:
    return None


def _picture(volume: Volume, data: bytes) -> np.ndarray:
    values = np.frombuffer(data, volume.dtype).reshape(volume.height, volume.width, volume.channels)
    image = pixels.grey(values.astype(values.dtype.newbyteorder("=")))
    if volume.slope != 1 or volume.intercept != 0:
        image = (image * np.float32(volume.slope) + np.float32(volume.intercept)).astype(np.float32)
    return np.ascontiguousarray(upright(image, volume.orientation))


def upright(image: np.ndarray, orientation: str) -> np.ndarray:
    """The image [H, W] with the probe at the top.

    Args:
        orientation: where the first and the second axis of the file point to, as the Plus toolkit writes it: M, U to the marked
            or unmarked side of the probe, F, N away from it or towards it. MF is upright.
    """
    if orientation[0] in "FN":
        image, orientation = image.T, orientation[1] + orientation[0]
    image = image[:, ::-1] if orientation[0] == "U" else image
    return image[::-1] if orientation[1] == "N" else image
