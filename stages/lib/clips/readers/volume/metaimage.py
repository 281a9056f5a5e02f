"""Headers of MetaImage files: .mha, and .mhd with the pixels in a file of its own."""

import math
from pathlib import Path

import numpy as np

from stages.lib.clips.readers.recording import Unreadable
from stages.lib.clips.readers.volume.header import Volume, beside, measured, pictures, sequence, unnamed

META_TYPES = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4",
              "ULONG": "u4", "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"}  # fmt: skip
HEADER_BYTES = 1 << 24  # a longer header is none


def read(path: Path) -> Volume:
    """What the file states.

    Raises:
        Unreadable: its pixels are text, or its header has no end.
        Exception: of many kinds, where the header is damaged.
    """
    fields = {}
    with path.open("rb") as file:
        while "ElementDataFile" not in fields:
            key, equals, value = file.readline(1 << 16).decode("latin-1").partition("=")
            if not equals or file.tell() > HEADER_BYTES:
                raise Unreadable("its header ends before ElementDataFile")
            fields[key.strip()] = value.strip()
        offset = file.tell()
    spacing = [float(size) for size in fields.get("ElementSpacing", fields.get("ElementSize", "")).split()]
    sizes, known = [int(size) for size in fields["DimSize"].split()], sequence(fields)
    known |= pictures(sizes) if known["stamps"] else unnamed(sizes, spacing)
    order = ">" if _true(fields, "BinaryDataByteOrderMSB") or _true(fields, "ElementByteOrderMSB") else "<"
    dtype = np.dtype(order + META_TYPES[fields["ElementType"].upper().removeprefix("MET_").removesuffix("_ARRAY")])
    channels = int(fields.get("ElementNumberOfChannels", 1))
    if not _true(fields, "BinaryData", "True"):
        raise Unreadable("its pixels are written as text: save it as binary data")
    name = fields["ElementDataFile"]
    file = path if name.upper() == "LOCAL" else beside(path, name)
    if file != path:
        offset = int(fields.get("HeaderSize", 0))
        offset = offset if offset >= 0 else file.stat().st_size - math.prod(sizes) * channels * dtype.itemsize
    packing = "zlib" if _true(fields, "CompressedData") else "raw"
    units = [fields.get("DistanceUnits", "")] * 2
    return Volume(file, offset, packing, channels, dtype, spacing_mm=measured(spacing[known["mixed"] :], units), **known)


def _true(fields: dict[str, str], name: str, default: str = "False") -> bool:
    return fields.get(name, default)[:1] in ("T", "t", "1")
