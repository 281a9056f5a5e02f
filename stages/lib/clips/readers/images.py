"""A folder of still images, one frame each, in natural order."""

from functools import partial
from pathlib import Path

from stages.lib.clips.readers import stack
from stages.lib.clips.readers.recording import Frames, Recording


def open_images(files: list[Path], others: list[Path]) -> Recording:
    """The images of one folder as one clip, without times.

    Args:
        others: files of the folder that are no image, or hold several: they are named in the notes.
    """
    listed = ", ".join(file.name for file in others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
    notes = [f"not still images, left out: {listed}"] if others else []
    return Recording(frames=partial(_frames, files), names=[file.name for file in files], notes=notes)


def _frames(files: list[Path]) -> Frames:
    for file in files:
        yield float("nan"), partial(stack.first, file)
