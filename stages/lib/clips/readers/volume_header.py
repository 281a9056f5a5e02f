"""Headers of volume files: MetaImage (.mha, .mhd), NRRD (.nrrd, .nhdr), NIfTI (.nii, .nii.gz, .hdr)."""

import gzip
import math
import re
from pathlib import Path
from typing import NamedTuple

import nibabel
import nrrd
import numpy as np

from stages.lib.clips.readers.recording import Unreadable

META_TYPES = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "FLOAT": "f4",
              "DOUBLE": "f8"}  # fmt: skip
NRRD_TYPES = {"signed char": "i1", "int8": "i1", "uchar": "u1", "unsigned char": "u1", "uint8": "u1", "short": "i2",
              "int16": "i2", "ushort": "u2", "unsigned short": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4",
              "unsigned int": "u4", "uint32": "u4", "float": "f4", "double": "f8"}  # fmt: skip
PACKINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
SECONDS = {"sec": 1, "msec": 1e-3, "usec": 1e-6}
MILLIMETRES = {"mm": 1, "meter": 1e3, "micron": 1e-3}
HEADER_BYTES = 1 << 24  # a longer header is none


class Volume(NamedTuple):
    """A sequence of pictures in a file.

    Attributes:
        file, offset, packing: where the pixels lie: first byte, and `raw`, `zlib`, `gzip` or `bzip2` from there on; of what is
            unpacked, `skipped` bytes come before the pixels.
        width, height, count, channels: of the pictures, in the order of the file's axes.
        dtype: of a value; slope, intercept: what turns it into the value that is meant.
        spacing_mm: of the columns and rows, NaN where unknown.
        stamps: number of a frame → its time in s; invalid: numbers of the frames without a picture.
        orientation: see volume.upright.
    """

    file: Path
    offset: int
    packing: str
    width: int
    height: int
    count: int
    channels: int
    dtype: np.dtype
    slope: float = 1
    intercept: float = 0
    skipped: int = 0
    spacing_mm: tuple[float, float] = (math.nan, math.nan)
    fps: float = math.nan
    stamps: dict[int, float] = {}
    invalid: frozenset[int] = frozenset()
    orientation: str = "MF"

    @property
    def frame_bytes(self) -> int:
        return self.width * self.height * self.channels * self.dtype.itemsize


def is_volume(start: bytes) -> bool:
    """Whether a file that begins so, once unpacked, is one of the three."""
    nifti = start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] in (b"n+2\0", b"ni2\0")
    return nifti or start.startswith((b"NRRD000", b"ObjectType", b"NDims"))


def read_header(path: Path, start: bytes) -> Volume:
    """What the file states.

    Raises:
        Unreadable: a form of the format that is not read here.
        Exception: of many kinds, where the header is damaged.
    """
    if start.startswith(b"NRRD000"):
        return _nrrd(path)
    return _meta(path) if start.startswith((b"ObjectType", b"NDims")) else _nifti(path, start)


def _meta(path: Path) -> Volume:
    fields = {}
    with path.open("rb") as file:
        while "ElementDataFile" not in fields:
            key, equals, value = file.readline(1 << 16).decode("latin-1").partition("=")
            if not equals or file.tell() > HEADER_BYTES:
                raise Unreadable("its header ends before ElementDataFile")
            fields[key.strip()] = value.strip()
        offset = file.tell()
    width, height, count = _three([int(size) for size in fields["DimSize"].split()])
    order = ">" if "True" in (fields.get("BinaryDataByteOrderMSB"), fields.get("ElementByteOrderMSB")) else "<"
    dtype = np.dtype(order + META_TYPES[fields["ElementType"].removeprefix("MET_").removesuffix("_ARRAY")])
    channels = int(fields.get("ElementNumberOfChannels", 1))
    if fields.get("BinaryData", "True") != "True":
        raise Unreadable("its pixels are written as text: save it as binary data")
    name = fields["ElementDataFile"]
    file = path if name == "LOCAL" else _beside(path, name)
    if name != "LOCAL":
        offset = int(fields.get("HeaderSize", 0))
        offset = offset if offset >= 0 else file.stat().st_size - width * height * count * channels * dtype.itemsize
    spacing = [float(size) for size in fields.get("ElementSpacing", fields.get("ElementSize", "")).split()]
    packing = "zlib" if fields.get("CompressedData") == "True" else "raw"
    return Volume(file, offset, packing, width, height, count, channels, dtype, spacing_mm=_measured(spacing),
                  **_sequence(fields))  # fmt: skip


def _nrrd(path: Path) -> Volume:
    with path.open("rb") as file:
        header = nrrd.read_header(file)
        offset, file_name = file.tell(), header.get("data file", header.get("datafile"))
    kinds, sizes = list(header.get("kinds", [])), [int(size) for size in header["sizes"]]
    coloured = bool(kinds) and kinds[0] not in ("domain", "space", "???") and sizes[0] <= 4
    width, height, count = _three(sizes[coloured:])
    dtype = np.dtype((">" if header.get("endian") == "big" else "<") + NRRD_TYPES[header["type"]])
    if header["encoding"] not in PACKINGS:
        raise Unreadable(f"its pixels are written as {header['encoding'][:10]}: save them as raw or gzip")
    directions = header.get("space directions")
    steps = header.get("spacings") if directions is None else np.linalg.norm(np.asarray(directions, float), axis=1)
    spacing = [] if steps is None else [float(step) for step in list(steps)[coloured:][:2]]
    if int(header.get("line skip", 0)) or int(header.get("byte skip", 0)) < 0:
        raise Unreadable("it skips lines before its pixels: save it without a line skip")
    file = path if file_name is None else _beside(path, str(file_name))
    offset = (offset if file_name is None else 0) + int(header.get("byte skip", 0))
    fields = {"UltrasoundImageOrientation": header.get("ultrasound image orientation", "MF")} | dict(header)
    return Volume(file, offset, PACKINGS[header["encoding"]], width, height, count, sizes[0] if coloured else 1, dtype,
                  spacing_mm=_measured(spacing), **_sequence(fields))  # fmt: skip


def _nifti(path: Path, start: bytes) -> Volume:
    second = start[4:8] in (b"n+2\0", b"ni2\0")
    with path.open("rb") as file:
        packing = "gzip" if file.read(2) == b"\x1f\x8b" else "raw"
    with (gzip.open if packing == "gzip" else open)(path, "rb") as file:
        header = (nibabel.Nifti2Header if second else nibabel.Nifti1Header).from_fileobj(file)
    width, height, count = _three(header.get_data_shape())
    kind = header.get_data_dtype()
    channels = len(kind.names) if kind.names else 1  # colours are named fields
    dtype = kind[0] if kind.names else kind
    slope, intercept = header.get_slope_inter()
    unit, clock = header.get_xyzt_units()
    zooms = [float(zoom) for zoom in header["pixdim"][1:5]]
    fps = 1 / (zooms[3] * SECONDS[clock]) if clock in SECONDS and header["dim"][0] == 4 and zooms[3] > 0 else math.nan
    length = MILLIMETRES.get(unit, math.nan)
    alone = b"n+" in start[:348]
    file = path if alone else path.with_suffix(".img")  # the pixels of a pair of files lie in the second
    before = int(header["vox_offset"]) if alone else 0
    offset, skipped = (0, before) if packing == "gzip" else (before, 0)  # header and pixels are packed together
    return Volume(file, offset, packing, width, height, count, channels, dtype, slope or 1, intercept or 0, skipped,
                  (zooms[0] * length, zooms[1] * length), fps)  # fmt: skip


def _three(sizes: list[int]) -> tuple[int, int, int]:
    """Width, height and number of frames, where at most one axis beside the picture's is longer than 1."""
    frames = [size for size in sizes[2:] if size != 1]
    if len(sizes) < 2 or len(frames) > 1:
        raise Unreadable(f"an array of {' × '.join(map(str, sizes))}: no sequence of pictures")
    return sizes[0], sizes[1], frames[0] if frames else 1


def _measured(spacing: list[float]) -> tuple[float, float]:
    """The spacing of columns and rows in mm; NaN where the file states none, or the 1 × 1 of a file that does not know."""
    known = len(spacing) >= 2 and spacing[:2] != [1, 1] and min(spacing[:2]) > 0
    return (spacing[0], spacing[1]) if known else (math.nan, math.nan)


def _sequence(fields: dict) -> dict:
    """Orientation and times, as the Plus toolkit writes them into MetaImage and NRRD."""
    found = [(re.fullmatch(r"Seq_Frame(\d+)_(Timestamp|ImageStatus|Status)", str(key)), value) for key, value in fields.items()]
    known = [(int(match[1]), match[2], value) for match, value in found if match]
    stamps = {number: float(value) for number, kind, value in known if kind == "Timestamp"}
    span = max(stamps.values()) - min(stamps.values()) if stamps else 0
    invalid = frozenset(number for number, kind, value in known if kind != "Timestamp" and value == "INVALID")
    orientation = str(fields.get("UltrasoundImageOrientation", "MF")).strip().upper()
    return {"stamps": stamps, "fps": (len(stamps) - 1) / span if span > 0 else math.nan, "invalid": invalid,
            "orientation": orientation[:2] if re.match("[MU][FN]|[FN][MU]", orientation) else "MF"}  # fmt: skip


def _beside(path: Path, name: str) -> Path:
    """The data file that a header names; it must lie with it: a clip from elsewhere must not open other files."""
    if "%" in name or name.upper().startswith("LIST") or Path(name).name != name:
        raise Unreadable("its pixels lie in several files or in another folder: save it as one file")
    return path.with_name(name)
