"""Features of clips as files: one vector per clip, before fine-tuning.

features.npy  float32 [clips, F]
clips.csv     clip, patient, label, … : a line per row of it
"""

from pathlib import Path

import numpy as np
import pandas as pd

from stages.lib.clips import store


def of_clips(features: np.ndarray, table: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Mean features [clips, F] of frames [N, F], and clip, patient, label of each, by clip id.

    Args:
        table: clip, patient, label of the N frames.
    """
    means = pd.DataFrame(features).groupby(table["clip"].to_numpy()).mean()
    known = table.drop_duplicates("clip").set_index("clip").loc[means.index, ["patient", "label"]]
    return means.to_numpy(), known.rename_axis("clip").reset_index()


def write(folder: str | Path, features: np.ndarray, clips: pd.DataFrame) -> None:
    """Write both files; they replace those of an earlier run."""
    with store.replacing(folder) as partial:
        np.save(partial / "features.npy", features.astype(np.float32))
        clips.to_csv(partial / "clips.csv", index=False)


def read(folder: str | Path) -> tuple[np.ndarray, pd.DataFrame]:
    """The features and their clips; FileNotFoundError where there are none."""
    return np.load(Path(folder, "features.npy")), store.table(Path(folder, "clips.csv"))
