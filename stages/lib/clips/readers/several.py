"""Whether an image file holds several pictures, told by a look at its first bytes: such a file is a clip of its own."""

import struct
from pathlib import Path

PNG, RIFF = b"\x89PNG\r\n\x1a\n", b"RIFF"
ANIMATED = 2  # flag of WebP's VP8X chunk


def holds_several(path: Path) -> bool:
    """True for animated PNG and WebP, and for TIFF of more than one page; False where the file cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
            if start.startswith(PNG):
                return b"acTL" in start.partition(b"IDAT")[0]
            if start.startswith(RIFF):
                return start[8:16] == b"WEBPVP8X" and bool(start[20] & ANIMATED)
            order = {b"II": "<", b"MM": ">"}.get(start[:2])
            if not order:
                return False
            version, = struct.unpack(f"{order}H", start[2:4])
            number, offset, entry = ("Q", "Q", 20) if version == 43 else ("H", "L", 12)  # BigTIFF, TIFF
            place, = struct.unpack_from(order + offset, start, 8 if version == 43 else 4)
            file.seek(place)
            entries, = struct.unpack(order + number, file.read(struct.calcsize(number)))
            file.seek(place + struct.calcsize(order + number) + entries * entry)
            following, = struct.unpack(order + offset, file.read(struct.calcsize(offset)))
            return version in (42, 43) and following > 0
    except (OSError, struct.error, IndexError, OverflowError, ValueError):
        return False
