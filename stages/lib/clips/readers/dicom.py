"""DICOM files, single-frame or multi-frame, through pydicom: one frame in memory at a time, decoded when it is due.

The frames are counted, since the header's number can be wrong. Where the file states which part of the picture shows tissue in
two dimensions, all else turns black: spectra, ECG, scales, names.
"""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_fragments, parse_basic_offsets
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from stages.lib.clips.readers import dicom_header, pixels, video
from stages.lib.clips.readers.recording import Frames, Recording, Unreadable

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote the header
FAMILY = "1.2.840.10008.1.2.4."  # of the transfer syntaxes that compress
STREAMS = [f"{FAMILY}{number}" for number in range(100, 109)]  # one MPEG-2, MPEG-4 or HEVC video for all frames
NAMES = {f"{FAMILY}110": "JPEG XL Lossless", f"{FAMILY}111": "JPEG XL JPEG Recompression", f"{FAMILY}112": "JPEG XL"}
STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP")  # of a frame: JPEG and JPEG-LS, JPEG 2000
OLD_STARTS = tuple(b"\x08\0" + bytes([element, 0]) for element in (0, 5, 8, 0x16)) + (b"\x02\0\0\0",)
UNDEFINED = 0xFFFFFFFF
INFLATED_BYTES = 1 << 30  # a deflated file that grows beyond is made to fill the memory


class PixelData(NamedTuple):
    """The header, the transfer syntax, a stream with the place of the pixel data in it, in bytes, and their value
    representation, OB or OW: of 8-bit values in big-endian files it decides about the order."""

    header: Dataset
    syntax: UID
    stream: BinaryIO
    start: int
    length: int
    representation: str


def is_dicom(start: bytes) -> bool:
    """Whether a file that begins so is DICOM, with the preamble or, from old archives, without."""
    return start[128:132] == b"DICM" or start.startswith(OLD_STARTS)


def open_dicom(path: Path) -> Recording:
    """The pictures of a DICOM file.

    Raises:
        Unreadable: no pixel data, a damaged header, or a transfer syntax that nothing here decodes.
    """
    with _quiet(), _pixel_data(path) as data:
        if data.syntax in NAMES or data.syntax not in AllTransferSyntaxes:
            raise Unreadable(f"its transfer syntax, {NAMES.get(data.syntax, 'an unknown one')}, cannot be decoded: convert it")
        notes = []
        region, others, entry = dicom_header.tissue_region(data.header, notes)
        fps, stamps = dicom_header.frame_times(data.header)
        aspect, mm_per_px = dicom_header.scale(data.header, entry)
        clip = Recording(frames=None, fps=fps, aspect=aspect, mm_per_px=mm_per_px, region=region, notes=notes)
        clip.burned_in = str(data.header.get("BurnedInAnnotation", "")).strip().upper() == "YES"
        shown = _shown_part(data.header, region, others)
        if data.syntax in STREAMS:
            stream = video.open_video(BytesIO(b"".join(_fragments(data))))
            stamps, clip.timed, clip.notes = [], True, notes + stream.notes
            clip.fps = stream.fps if np.isnan(fps) else fps
            clip.frames = partial(_of_video, stream, clip, shown)
            return clip
        stored, allocated = data.header.BitsStored, data.header.BitsAllocated
        clip.bits = stored if stored < allocated else None
        clip.frames = partial(_frames, path, clip, stamps, shown)
        if data.length < (1 if data.syntax.is_encapsulated else _frame_bytes(data)):
            raise Unreadable("its pixel data are cut off: not one whole frame")
    return clip


@contextmanager
def _quiet() -> Iterator[None]:
    """What pydicom says of a damaged file quotes its header: names must not get into a table or a log."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # pydicom raises many kinds
        raise Unreadable(f"a damaged or incomplete DICOM file ({type(error).__name__})") from None


@contextmanager
def _pixel_data(path: Path) -> Iterator[PixelData]:
    """Open a file at its pixel data."""
    with path.open("rb") as file:
        stream, header = file, dicom_header.read_header(file)
        if header.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            stream = BytesIO(_inflated(path))
            header = dicom_header.read_header(stream)
        implicit, little = header.original_encoding
        native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        syntax = UID(header.file_meta.get("TransferSyntaxUID") or native)
        order, start = "<" if little else ">", stream.read(8)
        if len(start) < 8 or struct.unpack(f"{order}HH", start[:4]) != (0x7FE0, 0x0010):
            raise Unreadable("a DICOM file without pixel data: no picture")
        length = struct.unpack(f"{order}L", start[4:] if implicit else stream.read(4))[0]
        begin = stream.tell()
        there = stream.seek(0, SEEK_END) - begin
        length = there if length == UNDEFINED else min(length, there)
        yield PixelData(header, syntax, stream, begin, length, "OW" if implicit or start[4:6] == b"OW" else "OB")


def _inflated(path: Path) -> bytes:
    """The data set of a deflated file."""
    meta_bytes = 132 + 12 + read_file_meta_info(path).FileMetaInformationGroupLength
    data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(path.read_bytes()[meta_bytes:], INFLATED_BYTES)
    if len(data) == INFLATED_BYTES:
        raise Unreadable(f"it unpacks to more than {INFLATED_BYTES >> 30} GiB: not believed")
    return data


def _frames(path: Path, clip: Recording, stamps: list[float], shown: np.ndarray | None) -> Frames:
    """Every frame that is there; those that are missing or broken off are counted as damaged."""
    with _quiet(), _pixel_data(path) as data:
        decode = _Decoder(data, shown)
        whole = _encapsulated(data) if data.syntax.is_encapsulated else range(int(data.length // _frame_bytes(data)))
        number = -1
        try:
            for number, frame in enumerate(whole):
                yield stamps[number] if number < len(stamps) else np.nan, partial(decode, frame)
        except ValueError:  # the fragments break off: what is missing is counted below
            pass
        clip.damaged += max(0, int(data.header.get("NumberOfFrames") or 0) - number - 1)


def _frame_bytes(data: PixelData) -> float:
    """Length of one frame that is not compressed."""
    header = data.header
    values = header.Rows * header.Columns * header.SamplesPerPixel
    if header.Rows * header.Columns > pixels.MOST_PX or header.BitsAllocated not in (8, 16, 32) or not values:
        raise Unreadable("the size or depth of its picture is not believed")
    return values * header.BitsAllocated / 8 * (2 / 3 if header.PhotometricInterpretation == "YBR_FULL_422" else 1)


def _fragments(data: PixelData) -> Iterator[bytes]:
    data.stream.seek(data.start)
    parse_basic_offsets(data.stream)
    return generate_fragments(data.stream)


def _encapsulated(data: PixelData) -> Iterator[bytes]:
    """The compressed frames; where one begins its own first bytes tell."""
    parts = []
    for fragment in _fragments(data):
        if parts and (data.syntax == RLELossless or fragment.startswith(STARTS)):
            yield b"".join(parts)
            parts = []
        parts.append(fragment)
    if parts:
        yield b"".join(parts)


def _of_video(stream: Recording, clip: Recording, shown: np.ndarray | None) -> Frames:
    stream.damaged = 0
    for time, decode in stream.frames():
        yield time, lambda decode=decode: _kept(decode(), shown)
    clip.damaged += stream.damaged


def _shown_part(header: Dataset, region: tuple | None, others: list[tuple]) -> np.ndarray | None:
    """Where [H, W] the picture shows tissue and nothing else; None: everywhere."""
    if region is None:
        return None
    shown = np.zeros((header.Rows, header.Columns), bool)
    for value, boxes in ((True, [region]), (False, others)):
        for left, top, width, height in boxes:
            shown[max(top, 0) : top + height, max(left, 0) : left + width] = value
    return shown


def _kept(image: np.ndarray | None, shown: np.ndarray | None) -> np.ndarray | None:
    return image if image is None or shown is None else np.where(shown, image, image.dtype.type(0))


class _Decoder:
    """A frame, compressed or by its number → the luminance [H, W] of what it shows."""

    def __init__(self, data: PixelData, shown: np.ndarray | None) -> None:
        self.data, self.shown = data, shown
        self.decoder = get_decoder(data.syntax)
        self.options = as_pixel_options(data.header, pixel_keyword="PixelData", pixel_vr=data.representation)
        self.palette = _palette(data.header) if data.header.PhotometricInterpretation == "PALETTE COLOR" else None

    def __call__(self, frame: bytes | int) -> np.ndarray:
        stream, index = self.data.stream, frame
        if isinstance(frame, bytes):
            stream, index = encapsulate([frame]), 0
        else:
            stream.seek(self.data.start)
        options = self.options | {"number_of_frames": index + 1}
        with _quiet():
            values, found = self.decoder.as_array(stream, index=index, raw=True, **options)
            return _kept(self.luminance(values, found["photometric_interpretation"]), self.shown)

    def luminance(self, values: np.ndarray, photometric: str) -> np.ndarray:
        if self.palette is not None:
            return self.palette[values & (len(self.palette) - 1)]
        if photometric.startswith("YBR_FULL"):
            return np.ascontiguousarray(values[..., 0])
        if photometric.startswith("YBR_PARTIAL"):
            return pixels.full_range(np.ascontiguousarray(values[..., 0]))
        if photometric == "MONOCHROME1":
            values = ((1 << self.data.header.BitsStored) - 1 - values.astype(np.int64)).astype(values.dtype)
        return pixels.grey(values)


def _palette(header: Dataset) -> np.ndarray:
    """The luminance that each value stands for, uint8."""
    entries = np.arange(1 << min(header.BitsAllocated, 16), dtype=np.uint8 if header.BitsAllocated == 8 else np.uint16)
    colours = pixels.grey(np.ascontiguousarray(apply_color_lut(entries[None], header)))[0]
    return (colours >> 8).astype(np.uint8) if colours.max() > 255 else colours.astype(np.uint8)
