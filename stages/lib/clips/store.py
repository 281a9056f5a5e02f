"""Frame store: the frames of many clips in one uint8 array beside two tables, in one folder.

frames.npy  uint8 [N, size_px, size_px], the frames of a clip one after the other in time order
masks.npy   uint8 [N, size_px, size_px], where the source has masks: 0, or the number of the lesion, from 1
frames.csv  a line per frame: row (in frames.npy), clip, frame (number in the clip), time_s (null where unknown)
clips.csv   a line per clip, kept or left out: clip, path, patient, label, … ; `left_out` holds the reason, empty if kept
facts.json  how the frames were taken from the clips: frame_rate_hz, max_frames_per_clip, assumed_frame_rate_hz, size_px,
            geometry
"""

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from stages.lib.params import UserError

TEXT = ("clip path patient group label subset masks source checksum left_out split pooled_class outcome reason names copy_of "
        "predicted crop crop_uncertain severity a_lines b_lines pcr grey burned_in notes")
FAN = ["fan_apex_x", "fan_apex_y", "fan_half_angle", "fan_near", "fan_far"]    # columns of clips.csv: see fan.py
# columns where an empty field is NaN
NUMBERS = ["fps", "time_s", "fold", "dice", "precision", "sensitivity", "mm_per_px", *FAN]


class Store(NamedTuple):
    """frames [N, H, W] uint8 (memory-mapped), and the tables of frames and of clips."""

    frames: np.ndarray
    frame_table: pd.DataFrame
    clip_table: pd.DataFrame


def read(folder: str | Path) -> Store:
    """Open the frame store in `folder`; the frames stay on disk until they are used.

    Raises:
        UserError: a file of the store is missing.
    """
    folder = Path(folder)
    try:
        frames = np.load(folder / "frames.npy", mmap_mode="r")
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; run `dvc repro` to make it") from None
    return Store(frames, table(folder / "frames.csv"), table(folder / "clips.csv"))


def write_facts(folder: str | Path, **facts: float | int | str) -> None:
    """Say in `folder` how the frames of the store were taken; networks carry these facts, so that new clips are read alike."""
    Path(folder, "facts.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def facts(folder: str | Path) -> dict[str, float | int | str]:
    """How the frames of the store were taken.

    Raises:
        UserError: the file is missing.
    """
    try:
        return json.loads(Path(folder, "facts.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; run `dvc repro` to make it") from None


def table(path: str | Path) -> pd.DataFrame:
    """Read a csv whose text columns (ids, labels, reasons) stay text, an empty field being the empty string.

    Raises:
        UserError: the file is missing.
    """
    empty = dict.fromkeys(NUMBERS, "")
    try:
        return pd.read_csv(path, dtype=dict.fromkeys(TEXT.split(), str), keep_default_na=False, na_values=empty)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `dvc repro` to make it") from None


def empty(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A new uint8 array of zeros in a file, memory-mapped. Its space on disk is taken at once: on a disk that
    fills up later, writing to the mapped file would end the process without a message.

    Raises:
        OSError: the disk has no space for it; none is taken then.
    """
    if shutil.disk_usage(path.parent).free < math.prod(shape):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, os.path.getsize(path))
    return array


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table without its index, in place of the one that is there."""
    with replacing(path, folder=False) as partial:
        table.to_csv(partial, index=False)


@contextmanager
def replacing(target: str | Path, folder: bool = True) -> Iterator[Path]:
    """A place beside `target` that takes its place when the block ends well and is removed when it does not.

    An output is never written in place: where DVC links files instead of copying them, other runs and the cache share it.

    Args:
        folder: whether `target` is a folder, which is then there and empty, or a file.
    """
    target = Path(target)
    partial, before = (target.with_name(target.name + end) for end in (".partial", ".before"))
    _put_back(before, target)
    _remove(partial)
    (partial if folder else partial.parent).mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        if folder and target.exists():
            os.replace(target, before)
        os.replace(partial, target)
    finally:
        _put_back(before, target)
        _remove(partial)


def _put_back(before: Path, target: Path) -> None:
    """Undo a move that was not followed by the next one, or remove what was moved away."""
    if before.exists() and not target.exists():
        os.replace(before, target)
    _remove(before)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
