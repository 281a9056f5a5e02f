"""crops.csv: the crops that the user gives, where the fan was found wrongly.

    clip                     id as in clips.csv, or a pattern with * for many, such as the clips of one scanner
    left, top, width, height the box in px; or
    mask                     a png of the pictures' size in the folder crops/, white where the fan is

A clip takes the first row that fits it.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from stages.lib.clips import lists
from stages.lib.params import require

PATTERN = re.compile(r"[*?[]")       # what fnmatch takes for more than a letter
BOX = ["left", "top", "width", "height"]


class Given(NamedTuple):
    """box: left, top, width, height in px, or None; mask: its file, or None. One of both."""

    box: tuple[int, int, int, int] | None
    mask: Path | None


def read(folder: Path, clips: Sequence[str]) -> dict[str, Given]:
    """The crops that <folder>/crops.csv gives, by clip; none where there is no such file.

    Args:
        folder: the source's.
        clips: the ids of its clips.

    Raises:
        UserError: the file is no table with the columns, or a line is wrong: which one, and why.
    """
    path = folder / "crops.csv"
    if not path.exists():
        return {}
    table = lists.read(path, ["clip"], ["mask", *BOX])
    unknown = set(table.columns) - {"clip", "mask", *BOX}
    complete = "mask" in table or set(BOX) <= set(table.columns)
    require(complete and not unknown, f"{path} must have the column clip and left, top, width, height or mask; it has "
            f"{', '.join(table.columns)}")
    found, known = {}, set(clips)
    for line, row in table.reindex(columns=["clip", "mask", *BOX], fill_value="").to_dict("index").items():
        row = {name: value.strip() for name, value in row.items()}
        given = _given(row, folder, f"{path}, line {line}")
        fitting = [row["clip"]] if row["clip"] in known else []
        if PATTERN.search(row["clip"]):             # only then, so that a row of each clip is not compared with every clip
            fitting += [clip for clip in clips if fnmatchcase(clip, row["clip"])]
        require(bool(fitting), f"{path}, line {line}: no clip is named {row['clip']!r}; take an id from clips.csv, or a "
                "pattern with *")
        for clip in fitting:
            found.setdefault(clip, given)
    return found


def _given(row: dict[str, str], folder: Path, place: str) -> Given:
    """A row's box or mask."""
    if row["mask"]:
        require(not any(row[name] for name in BOX), f"{place}: give a box or a mask, not both")
        mask = folder / lists.file(folder, row["mask"], place)
        require(mask.is_file(), f"{place}: {mask} is missing")
        return Given(None, mask)
    wrong = next((name for name in BOX if not row[name].isascii() or not row[name].isdecimal()), None)
    require(not wrong, f"{place}: {wrong} is {row.get(wrong)!r}; it must be a whole number of px, 0 or more")
    left, top, width, height = (int(row[name]) for name in BOX)
    require(min(width, height) >= 8, f"{place}: the box is {width} × {height} px; each side must be 8 px or more")
    return Given((left, top, width, height), None)
