"""Frame store: the frames of many clips in one uint8 array beside two tables, in one folder.

frames.npy  uint8 [N, size_px, size_px], the frames of a clip one after the other in time order
masks.npy   uint8 [N, size_px, size_px], where the source has masks: 0, or the number of the lesion, from 1
frames.csv  a line per frame: row (in frames.npy), clip, frame (number in the clip), time_s (null where unknown)
clips.csv   a line per clip, kept or left out: clip, path, patient, label, … ; `left_out` holds the reason, empty if kept
"""

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
        "predicted severity a_lines b_lines pcr grey burned_in notes")
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
        return Store(frames, table(folder / "frames.csv"), table(folder / "clips.csv"))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; run `dvc repro` to make it") from None


def table(path: str | Path) -> pd.DataFrame:
    """Read a csv whose text columns (ids, labels, reasons) stay text, an empty field being the empty string."""
    empty = dict.fromkeys(NUMBERS, "")
    return pd.read_csv(path, dtype=dict.fromkeys(TEXT.split(), str), keep_default_na=False, na_values=empty)


@contextmanager
def replacing(folder: str | Path) -> Iterator[Path]:
    """A fresh folder beside `folder` that takes its place when the block ends well and is removed when it does not."""
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
