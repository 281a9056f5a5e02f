"""Headers of NRRD files: .nrrd, and .nhdr with the pixels in a file of its own."""

import math
from pathlib import Path

import nrrd
import numpy as np

from stages.lib.clips.readers import times
from stages.lib.clips.readers.recording import Unreadable
from stages.lib.clips.readers.volume.header import Volume, beside, measured, pictures, sequence, unnamed

NRRD_TYPES = {"signed char": "i1", "int8": "i1", "uchar": "u1", "unsigned char": "u1", "uint8": "u1", "short": "i2",
              "int16": "i2", "ushort": "u2", "unsigned short": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4",
              "unsigned int": "u4", "uint32": "u4", "longlong": "i8", "long long": "i8", "int64": "i8",
              "ulonglong": "u8", "unsigned long long": "u8", "uint64": "u8", "float": "f4", "double": "f8"}  # fmt: skip
TIMES, DOMAIN = ("time", "list"), ("domain", "space", "none", "???")  # kinds of axes: of frames, of a picture
COLOURS = ("stub", "scalar", "vector", "RGB-color", "RGBA-color", "3-color", "4-color")  # of grey values or colours of a pixel
PACKINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}


def read(path: Path) -> Volume:
    """What the file states.

    Raises:
        Unreadable: its pixels are text, follow lines to skip, or are no grey values or colours.
        Exception: of many kinds, where the header is damaged.
    """
    with path.open("rb") as file:
        header = nrrd.read_header(file)
        offset, file_name = file.tell(), header.get("data file", header.get("datafile"))
    kinds, sizes = list(header.get("kinds", [])), [int(size) for size in header["sizes"]]
    mixed = bool(kinds) and kinds[0] in TIMES
    coloured = bool(kinds) and kinds[0] in COLOURS and sizes[0] <= 4
    if kinds and kinds[0] not in (*TIMES, *DOMAIN, *COLOURS):
        raise Unreadable(f"its values are of the kind {kinds[0]}: neither grey nor colours")
    axes = kinds[1:] if mixed or coloured else kinds
    if set(axes) - {*DOMAIN, *TIMES} or set(axes[:2]) & {*TIMES}:
        raise Unreadable(f"its axes are {', '.join(kinds)}: save it with the colours first, and time first or last")
    directions = header.get("space directions")
    steps = header.get("spacings") if directions is None else np.linalg.norm(np.asarray(directions, float), axis=1)
    steps = [] if steps is None else [float(step) for step in steps]
    named = coloured or set(kinds) & {*TIMES}
    layout = pictures(sizes[coloured:], mixed) if named else unnamed(sizes, steps)
    dtype = np.dtype((">" if header.get("endian") == "big" else "<") + NRRD_TYPES[header["type"]])
    if header["encoding"] not in PACKINGS:
        raise Unreadable(f"its pixels are written as {header['encoding'][:10]}: save them as raw or gzip")
    first = coloured or layout["mixed"]  # number of the picture's first axis
    units = list(header.get("units", []))[first:] if directions is None else list(header.get("space units", []))
    if int(header.get("line skip", 0)) or int(header.get("byte skip", 0)) < 0:
        raise Unreadable("it skips lines before its pixels: save it without a line skip")
    file = path if file_name is None else beside(path, str(file_name))
    offset = (offset if file_name is None else 0) + int(header.get("byte skip", 0))
    fields = {"UltrasoundImageOrientation": header.get("ultrasound image orientation", "MF"),
              "UltrasoundImageType": header.get("ultrasound image type", "")} | dict(header)  # fmt: skip
    known = sequence(fields) | layout
    known["fps"] = _rate_hz(header, 0 if layout["mixed"] else len(sizes) - 1) if math.isnan(known["fps"]) else known["fps"]
    return Volume(file, offset, PACKINGS[header["encoding"]], sizes[0] if coloured else 1, dtype,
                  spacing_mm=measured(steps[first:], (units + ["", ""])[:2]), **known)  # fmt: skip


def _rate_hz(header: dict, axis: int) -> float:
    """Frames a second by the axis of time: the times that 3D Slicer lists, or the spacing; NaN where no unit is stated."""
    unit = times.seconds([*header.get("units", []), *[""] * (axis + 1)][axis])
    stamps = [times.number(text) for text in str(header.get(f"axis {axis} index values", "")).split()]
    spacing = [*header.get("spacings", []), *[math.nan] * (axis + 1)][axis]
    return times.frame_rate_hz((np.diff(stamps) if len(stamps) > 1 else np.array([spacing], float)) * unit)
