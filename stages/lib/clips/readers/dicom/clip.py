"""DICOM files, single-frame or multi-frame, through pydicom: one frame in memory at a time, decoded when it is due.

The frames are counted, since the header's number can be wrong. Where the file states which part of the picture shows tissue in
two dimensions, all else turns black: spectra, ECG, scales, names.
"""

from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.uid import AllTransferSyntaxes, EnhancedUSVolumeStorage

from stages.lib.clips.readers import video
from stages.lib.clips.readers.dicom import header, pixel_data, regions
from stages.lib.clips.readers.dicom.decoding import Decoder, kept
from stages.lib.clips.readers.dicom.pixel_data import FAMILY, STREAMS
from stages.lib.clips.readers.recording import Frames, Recording, Unreadable

NAMES = {f"{FAMILY}110": "JPEG XL Lossless", f"{FAMILY}111": "JPEG XL JPEG Recompression", f"{FAMILY}112": "JPEG XL"}


def open_dicom(path: Path) -> Recording:
    """The pictures of a DICOM file.

    Raises:
        Unreadable: no pixel data, a damaged header, or a transfer syntax that nothing here decodes.
    """
    with header.quiet(), pixel_data.opened(path) as data:
        if data.syntax in NAMES or data.syntax not in AllTransferSyntaxes:
            raise Unreadable(f"its transfer syntax, {NAMES.get(data.syntax, 'an unknown one')}, cannot be decoded: convert it")
        notes = _of_a_volume(data.header)
        tissue = regions.tissue(data.header, notes)
        fps, stamps = header.frame_times(data.header, notes)
        aspect, mm_per_px = regions.scale(data.header, tissue.entry, notes)
        clip = Recording(frames=None, fps=fps, aspect=aspect, mm_per_px=mm_per_px, region=tissue.box, notes=notes)
        clip.burned_in = str(data.header.get("BurnedInAnnotation", "")).strip().upper() == "YES"
        if data.syntax in STREAMS:
            stream = video.open_video(BytesIO(b"".join(pixel_data.fragments(data))), square=False)
            shown = tissue.shown
            if not _fits(stream, shown, notes):
                shown, clip.region, clip.mm_per_px = None, None, np.nan
            clip.timed, clip.notes = True, notes + stream.notes
            clip.fps = stream.fps if np.isnan(fps) else fps
            clip.frames = partial(_of_video, stream, clip, shown)
            return clip
        stored, allocated = data.header.BitsStored, data.header.BitsAllocated
        known = stored < allocated and data.header.PhotometricInterpretation != "PALETTE COLOR"
        clip.bits = stored - data.header.PixelRepresentation if known else None  # of signed values one bit is the sign
        clip.frames = partial(_frames, path, clip, stamps, tissue.shown)
        if data.length < (1 if data.syntax.is_encapsulated else pixel_data.frame_bytes(data.header)):
            raise Unreadable("its pixel data are cut off: not one whole frame")
    return clip


def _frames(path: Path, clip: Recording, stamps: list[float], shown: np.ndarray | None) -> Frames:
    """Every frame that is there; those that are missing or broken off are counted as damaged."""
    with header.quiet(), pixel_data.opened(path) as data:
        decode = Decoder(data, shown)
        number = -1
        try:
            decode.find_black(pixel_data.frames(data))
            for number, frame in enumerate(pixel_data.frames(data)):
                yield stamps[number] if number < len(stamps) else np.nan, partial(decode, frame)
        except ValueError:  # the fragments break off: what is missing is counted below
            pass
        clip.damaged += max(0, int(data.header.get("NumberOfFrames") or 0) - number - 1)


def _of_a_volume(elements: Dataset) -> list[str]:
    """What the user must hear of the slices of a volume.

    Raises:
        Unreadable: volumes over time, or slices that show different things.
    """
    if elements.get("SOPClassUID") != EnhancedUSVolumeStorage:
        return []
    groups = elements.get("PerFrameFunctionalGroupsSequence", [])
    places = {group.get("FrameContentSequence", [{}])[0].get("TemporalPositionIndex") for group in groups}
    kinds = {group.get("ImageDataTypeSequence", [{}])[0].get("DataType") for group in groups}
    if len(places) > 1 or len(kinds) > 1:
        raise Unreadable("a volume over time, or of several kinds of values: no sequence of pictures")
    return ["its frames are the slices of a volume, not pictures over time"]


def _fits(stream: Recording, shown: np.ndarray | None, notes: list[str]) -> bool:
    """Whether the pictures of a video have the size that the header states: else its regions lie elsewhere."""
    image = next((decode() for _, decode in stream.frames()), None)
    fits = shown is None or image is None or image.shape == shown.shape
    if not fits:
        notes.append(f"its video is {image.shape[1]} × {image.shape[0]}, its header states another size: no region is believed")
    return fits


def _of_video(stream: Recording, clip: Recording, shown: np.ndarray | None) -> Frames:
    stream.damaged = 0
    for time, decode in stream.frames():
        yield time, lambda decode=decode: kept(decode(), shown)
    clip.damaged += stream.damaged
