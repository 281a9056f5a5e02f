"""Folds of an evaluation task: who is held out when."""

import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from stages.lib.params import require
from stages.lib.tasks import groups


def with_folds(clips: pd.DataFrame, task: str, folds: int, fold_seed: int) -> pd.DataFrame:
    """The clip table with a column `fold`: patients whole, classes in like parts; <NA> for clips that are left out.

    Raises:
        UserError: fewer patients than folds.
    """
    used = clips[clips["left_out"] == ""]
    patients = groups(used)
    require(2 <= folds <= patients.nunique(), f"params.yaml: finetune.folds is {folds}; task {task} has "
            f"{patients.nunique()} patients in data/frames/{task}/clips.csv, choose 2 to that many")
    division = StratifiedGroupKFold(folds, shuffle=True, random_state=fold_seed).split(used, used["label"], patients)
    fold = pd.Series(pd.NA, index=clips.index, dtype="Int64")
    for number, (_, held_out) in enumerate(division):
        fold[used.index[held_out]] = number
    return clips.assign(fold=fold)
