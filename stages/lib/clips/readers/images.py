"""A folder of still images, one frame each, in natural order."""

from functools import partial
from pathlib import Path

from stages.lib.clips.readers import stack
from stages.lib.clips.readers.recording import Frames, Recording


def open_images(files: list[Path]) -> Recording:
    """The images of one folder as one clip, without times."""
    return Recording(frames=partial(_frames, files), names=[file.name for file in files])


def _frames(files: list[Path]) -> Frames:
    for file in files:
        yield float("nan"), partial(stack.first, file)
