"""A folder of still images, one frame each, in natural order."""

import re
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path

from stages.lib.clips.readers import stack
from stages.lib.clips.readers.recording import Frames, Recording

DECIMAL = re.compile(r"\D*(\d+\.\d+)\D*")  # a name with one number, such as a time in s


def open_images(files: list[Path], others: list[Path]) -> Recording:
    """The images of one folder as one clip, without times.

    Args:
        others: files of the folder that are no image, or hold several: they are named in the notes.
    """
    notes = [f"not still images, left out: {_named([file.name for file in others])}"] if others else []
    lost = [file.name for file in files[0].parent.glob("*") if file.is_symlink() and not file.exists()]
    notes += [f"links that lead nowhere: {_named(sorted(lost))}"] if lost else []
    double = [name for name, count in Counter(file.stem for file in files).items() if count > 1]
    notes += [f"several images of one name, each a frame: {_named(double)}"] if double else []
    numbers = [DECIMAL.fullmatch(file.stem) for file in files]
    if all(numbers):  # by value 0.2 comes after 0.12; but 1.2 may be the second frame of the first loop
        falls = next(((one[0], two[0]) for one, two in pairwise(numbers) if float(one[1]) > float(two[1])), None)
        notes += [f"in the order of whole numbers, so that {falls[0]} comes before {falls[1]}"] if falls else []
    return Recording(frames=partial(_frames, files), names=[file.name for file in files], notes=notes)


def _named(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _frames(files: list[Path]) -> Frames:
    for file in files:
        yield float("nan"), partial(stack.first, file)
