"""Whether an image file holds several pictures, by its first bytes: such a file is a clip of its own."""

import re
import struct
from pathlib import Path

PNG, RIFF = b"\x89PNG\r\n\x1a\n", b"RIFF"
PLAIN, BIG = 42, 43  # versions of TIFF
ANIMATED = 2  # flag of WebP's VP8X chunk
NUMBER = rb"(?:\s|#[^\n]*\n)+\d+"  # of a header of PNM: width, height and, but for black and white, the largest value
PNM = re.compile(rb"(?:P[14]" + 2 * NUMBER + rb"|P[2356]" + 3 * NUMBER + rb")\s")


def holds_several(path: Path) -> bool:
    """True for animated PNG, WebP and AVIF, for PNM pictures one after the other, and for TIFF of more than one page; False
    where the file cannot be read.
    """
    try:
        if not path.is_file():  # a pipe would never end
            return False
        with path.open("rb") as file:
            start = file.read(4096)
            if start.startswith(PNG):
                return b"acTL" in start.partition(b"IDAT")[0]
            if start.startswith(RIFF):
                return start[8:16] == b"WEBPVP8X" and bool(start[20] & ANIMATED)
            if start[4:12] == b"ftypavis":
                return True
            if pnm := PNM.match(start):
                return pnm[0] in start[pnm.end() :] + file.read()
            order = {b"II": "<", b"MM": ">"}.get(start[:2])
            if not order:
                return False
            (version,) = struct.unpack(f"{order}H", start[2:4])
            count, offset, entry_bytes, place = ("Q", "Q", 20, 8) if version == BIG else ("H", "L", 12, 4)
            count, offset = struct.Struct(order + count), struct.Struct(order + offset)
            (directory,) = offset.unpack_from(start, place)
            file.seek(directory)
            (entries,) = count.unpack(file.read(count.size))
            file.seek(directory + count.size + entries * entry_bytes)
            (following,) = offset.unpack(file.read(offset.size))
            return version in (PLAIN, BIG) and following > 0
    except (OSError, struct.error, IndexError, OverflowError, ValueError):
        return False
