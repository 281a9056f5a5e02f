"""What the header of a volume file states, whatever its format, and what MetaImage, NRRD and NIfTI have in common."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.lib.clips.readers import times
from stages.lib.clips.readers.recording import Unreadable

# what one unit of length is in mm; a file that names none, or does not know it, means mm
LENGTHS_MM = {"": 1, "?": 1, "unknown": 1, "mm": 1, "millimeter": 1, "millimetre": 1, "cm": 10, "centimeter": 10,
              "centimetre": 10, "m": 1e3, "meter": 1e3, "metre": 1e3, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3,
              "micrometer": 1e-3, "micrometre": 1e-3, "in": 25.4, "inch": 25.4}  # fmt: skip


class Volume(NamedTuple):
    """A sequence of pictures in a file.

    Attributes:
        file, offset, packing: where the pixels lie: first byte, and `raw`, `zlib`, `gzip` or `bzip2` from there on; of what is
            unpacked, `skipped` bytes come before the pixels.
        width, height, count, channels: of the pictures, in the order of the file's axes.
        dtype: of a value; slope, intercept: what turns it into the value that is meant.
        spacing_mm: of the columns and rows, NaN where unknown.
        stamps: number of a frame → its time in s; invalid: numbers of the frames without a picture.
        mixed: whether the frames' pixels alternate: the axis of time comes first in the file.
        orientation: see upright in clip.py.
        note: a sentence for the user on what the header does not say.
    """

    file: Path
    offset: int
    packing: str
    channels: int
    dtype: np.dtype
    slope: float = 1
    intercept: float = 0
    skipped: int = 0
    spacing_mm: tuple[float, float] = (math.nan, math.nan)
    fps: float = math.nan
    stamps: dict[int, float] = {}
    invalid: frozenset[int] = frozenset()
    width: int = 0
    height: int = 0
    count: int = 0
    mixed: bool = False
    orientation: str = "MF"
    note: str = ""

    @property
    def frame_bytes(self) -> int:
        return self.width * self.height * self.channels * self.dtype.itemsize


def pictures(sizes: list[int], mixed: bool = False) -> dict:
    """Width, height and count of the pictures, where at most one axis beside the picture's is longer than 1.

    Args:
        mixed: whether the first axis is that of time.
    """
    ordered = [*sizes[1:3], sizes[0], *sizes[3:]] if mixed else sizes
    frames = [size for size in ordered[2:] if size != 1]
    if len(sizes) < 2 or len(frames) > 1:
        raise Unreadable(f"an array of {' × '.join(map(str, sizes))}: no sequence of pictures")
    return {"width": ordered[0], "height": ordered[1], "count": frames[0] if frames else 1, "mixed": mixed}


def unnamed(sizes: list[int], spacing: Sequence[float]) -> dict:
    """As `pictures`, of a header that names no axis of time: it is the last of three, or one behind them.

    It is the first if the spacing of the two others agrees, and differs from its own. Then the array lies as in NumPy: frames,
    rows, columns.
    """
    first = (len(spacing) > 2 and min(sizes[:3]) > 1 and spacing[1] != 1 and math.isclose(spacing[1], spacing[2], rel_tol=1e-4)
             and not math.isclose(spacing[0], spacing[1], rel_tol=1e-4))  # fmt: skip
    found = pictures(sizes, first)
    taken = "by its spacing the first" if first else "the last"
    note = f"its header does not say which axis of {' × '.join(map(str, sizes))} is time: {taken} is taken"
    return found | {"note": note if min(sizes[:3]) > 1 and len(sizes) > 2 else ""} | ({"orientation": "FM"} if first else {})


def measured(spacing: list[float], units: Sequence[str] = ("", "")) -> tuple[float, float]:
    """The spacing of columns and rows in mm; NaN where the file states none, or the 1 × 1 of a file that does not know.

    Args:
        units: of both; NaN where one is no length.
    """
    known = len(spacing) >= 2 and spacing[:2] != [1, 1] and min(spacing[:2]) > 0
    lengths = [LENGTHS_MM.get(unit.strip().lower().removesuffix("s"), math.nan) for unit in units]
    return (spacing[0] * lengths[0], spacing[1] * lengths[1]) if known else (math.nan, math.nan)


def sequence(fields: dict) -> dict:
    """Orientation and times, as the Plus toolkit writes them into MetaImage and NRRD.

    Raises:
        Unreadable: its values are no grey values.
    """
    found = [(re.fullmatch(r"Seq_Frame(\d+)_(Timestamp|ImageStatus|Status)", str(key)), value) for key, value in fields.items()]
    known = [(int(match[1]), match[2], value) for match, value in found if match]
    stamps = {place: times.number(value) for place, kind, value in known if kind == "Timestamp"}
    steps = np.diff([stamps[place] for place in sorted(stamps)])
    invalid = frozenset(place for place, kind, value in known if kind != "Timestamp" and value == "INVALID")
    orientation = str(fields.get("UltrasoundImageOrientation", "MF")).strip().upper()
    if str(fields.get("UltrasoundImageType", "")).strip().upper().startswith("RF"):
        raise Unreadable("its values are raw echoes (RF), no picture: save it as brightness")
    return {"stamps": stamps, "fps": times.frame_rate_hz(steps), "invalid": invalid,
            "orientation": orientation[:2] if re.match("[MU][FN]|[FN][MU]", orientation) else "MF"}  # fmt: skip


def beside(path: Path, name: str) -> Path:
    """The data file that a header names; it must lie with it: a clip from elsewhere must not open other files."""
    file = Path(name.replace("\\", "/"))
    if "%" in name or name.upper().startswith("LIST") or file.name != str(file):
        raise Unreadable("its pixels lie in several files or in another folder: save it as one file")
    return path.with_name(file.name)
