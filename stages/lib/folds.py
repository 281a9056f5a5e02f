"""Folds of an evaluation task by patient, and the frames of the clips that have one."""

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import StratifiedGroupKFold

from stages.lib import store
from stages.lib.params import require
from stages.lib.tasks import groups


def with_folds(clips: pd.DataFrame, task: str, folds: int, fold_seed: int, stage: str) -> pd.DataFrame:
    """The clip table with a column `fold`: patients whole, classes in like parts; <NA> for clips that are left out.

    Raises:
        UserError: fewer patients than folds.
    """
    used = clips[clips["left_out"] == ""]
    patients = groups(used)
    require(2 <= folds <= patients.nunique(), f"params.yaml: {stage}.folds is {folds}; task {task} has "
            f"{patients.nunique()} patients in data/frames/{task}/clips.csv, choose 2 to that many")
    division = StratifiedGroupKFold(folds, shuffle=True, random_state=fold_seed).split(used, used["label"], patients)
    fold = pd.Series(pd.NA, index=clips.index, dtype="Int64")
    for number, (_, held_out) in enumerate(division):
        fold[used.index[held_out]] = number
    return clips.assign(fold=fold)


def require_all(clips: pd.DataFrame, task: str, classes: list) -> None:
    """Raise UserError if a class of the task has no clip."""
    absent = [name for name in classes if name not in set(clips.loc[clips["left_out"] == "", "label"])]
    require(not absent, f"task {task}: no clip of class {', '.join(absent)} in data/frames/{task}/clips.csv; take it out of "
            f"tasks.{task}.classes or add clips")


def load_frames(task: str, clips: pd.DataFrame) -> tuple[torch.Tensor, pd.DataFrame]:
    """The frames of the clips that have a fold, [N, 1, H, W] uint8, and a row each: clip, frame, patient, label, fold."""
    data = store.read(f"data/frames/{task}")
    used = clips.loc[clips["left_out"] == "", ["clip", "patient", "label", "fold"]]
    table = data.frame_table.merge(used.assign(group=groups(used)), on="clip", sort=False).sort_values("row")
    return torch.from_numpy(data.frames[table["row"].to_numpy()]).unsqueeze(1), table.reset_index(drop=True)


def check_apart(table: pd.DataFrame, held_out: np.ndarray) -> None:
    """Raise AssertionError if a patient has frames on both sides of the split."""
    both = set(table["group"][held_out]) & set(table["group"][~held_out])
    assert not both, f"patients on both sides of a fold: {sorted(both)}"
