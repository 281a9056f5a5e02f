"""The pixel data of a DICOM file: where they lie, how long one frame is, and where a compressed frame begins."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pydicom import Dataset
from pydicom.encaps import generate_fragments, parse_basic_offsets
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from stages.lib.clips.readers import pixels
from stages.lib.clips.readers.dicom import header
from stages.lib.clips.readers.recording import Unreadable

FAMILY = "1.2.840.10008.1.2.4."  # of the transfer syntaxes that compress
STREAMS = [f"{FAMILY}{number}" for number in range(100, 109)]  # one MPEG-2, MPEG-4 or HEVC video for all frames
STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP")  # of a frame: JPEG and JPEG-LS, JPEG 2000
UNDEFINED = 0xFFFFFFFF
VALUES = (b"OB", b"OW", b"UN")  # kinds of pixel data that name their kind; the length of others is even and cannot look so
HALVED = ("YBR_FULL_422", "YBR_PARTIAL_422")  # two pixels share their colour: two values a pixel in place of three
INFLATED_BYTES = 1 << 30  # a deflated file that grows beyond is made to fill the memory


class PixelData(NamedTuple):
    """The pixel data of an open file.

    Attributes:
        header: the elements that header.read_header keeps.
        syntax: transfer syntax: how the pixel data are compressed and ordered.
        stream: where the pixel data lie, from byte `start` on, `length` bytes.
        representation: OB or OW. It decides about the order of 8-bit values in big-endian files.
    """

    header: Dataset
    syntax: UID
    stream: BinaryIO
    start: int
    length: int
    representation: str


@contextmanager
def opened(path: Path) -> Iterator[PixelData]:
    """Open a file at its pixel data.

    Raises:
        Unreadable: it has none, its header states no picture, or it unpacks to too much.
    """
    with path.open("rb") as file:
        stream, elements = file, header.read_header(file)
        if elements.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            stream = BytesIO(_inflated(path))
            elements = header.read_header(stream)
        _, little = elements.original_encoding
        order, start = "<" if little else ">", stream.read(8)
        implicit = start[4:6] not in VALUES  # of some files the header is wrong about it
        native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        syntax = UID(elements.file_meta.get("TransferSyntaxUID") or native)
        if len(start) < 8 or struct.unpack(f"{order}HH", start[:4]) != (0x7FE0, 0x0010):
            raise Unreadable("a DICOM file without pixel data: no picture")
        length = struct.unpack(f"{order}L", start[4:] if implicit else stream.read(4))[0]
        begin = stream.tell()
        if length == UNDEFINED and syntax in AllTransferSyntaxes and not syntax.is_encapsulated:
            raise Unreadable("its pixel data are compressed, and its header does not say how: convert it")
        there = stream.seek(0, SEEK_END) - begin
        length = there if length == UNDEFINED else min(length, there)
        if syntax not in STREAMS:  # a video describes itself
            header.complete(elements)
        yield PixelData(elements, syntax, stream, begin, length, "OW" if implicit or start[4:6] == b"OW" else "OB")


def _inflated(path: Path) -> bytes:
    """The data set of a deflated file."""
    meta_bytes = 132 + 12 + read_file_meta_info(path).FileMetaInformationGroupLength
    data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(path.read_bytes()[meta_bytes:], INFLATED_BYTES)
    if len(data) == INFLATED_BYTES:
        raise Unreadable(f"it unpacks to more than {INFLATED_BYTES >> 30} GiB: not believed")
    return data


def frame_bytes(elements: Dataset) -> float:
    """Length of one frame that is not compressed.

    Raises:
        Unreadable: its size or depth cannot be.
    """
    values, kind = elements.Rows * elements.Columns * elements.SamplesPerPixel, elements.PhotometricInterpretation
    if kind == "YBR_PARTIAL_420":
        raise Unreadable("its colours, YBR_PARTIAL_420 without compression, are not read: save it as RGB or grey")
    if kind in HALVED and elements.Columns % 2:
        raise Unreadable(f"its colours, {kind}, are shared by two pixels, but its width is odd: save it as RGB or grey")
    if elements.Rows * elements.Columns > pixels.MOST_PX or elements.BitsAllocated not in (8, 16, 32) or not values:
        raise Unreadable("the size or depth of its picture is not believed")
    return values * elements.BitsAllocated / 8 * (2 / 3 if kind in HALVED else 1)


def fragments(data: PixelData) -> Iterator[bytes]:
    """The pieces in which compressed pixel data are stored, without the table of offsets before them.

    Raises:
        ValueError: the pieces break off.
    """
    data.stream.seek(data.start)
    parse_basic_offsets(data.stream)
    return generate_fragments(data.stream)


def frames(data: PixelData) -> Iterator[bytes | int]:
    """The frames that are there: compressed ones as bytes, others by their number.

    Raises:
        ValueError: the pieces of compressed ones break off.
    """
    return _compressed(data) if data.syntax.is_encapsulated else iter(range(int(data.length // frame_bytes(data.header))))


def _compressed(data: PixelData) -> Iterator[bytes]:
    """The first bytes of a frame tell where it begins: tables of offsets can be wrong."""
    parts = []
    for fragment in fragments(data):
        if parts and (data.syntax == RLELossless or fragment.startswith(STARTS)):
            yield b"".join(parts)
            parts = []
        parts.append(fragment)
    if parts:
        yield b"".join(parts)
