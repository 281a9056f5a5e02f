"""Who is held out, who trains and who chooses the epoch: whole patients, each class divided evenly."""

from collections import Counter

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from stages.lib.params import require


def with_folds(clips: pd.DataFrame, task: str, folds: int, fold_seed: int, stage: str) -> pd.DataFrame:
    """The clip table with a column `fold`, <NA> for clips left out: groups stay whole, classes are divided evenly.

    Args:
        clips: with the columns group, label, left_out.
        stage: finetune | segment; the sentences for the user name its keys.

    Raises:
        UserError: fewer groups than folds, or a fold without a clip of some class. (A class that is in every fold is in
            every training part, too.)
    """
    used = clips[clips["left_out"] == ""]
    patients = used["group"]
    require(2 <= folds <= patients.nunique(), f"params.yaml: {stage}.folds is {folds}; task {task} has "
            f"{patients.nunique()} patients in data/frames/{task}/clips.csv, choose 2 to that many")
    division = StratifiedGroupKFold(folds, shuffle=True, random_state=fold_seed).split(used, used["label"], patients)
    fold = pd.Series(pd.NA, index=clips.index, dtype="Int64")
    for number, (_, held_out) in enumerate(division):
        fold[used.index[held_out]] = number
        missing = sorted(set(used["label"]) - set(used["label"].iloc[held_out]))
        require(not missing, f"params.yaml: {stage}.folds is {folds}; fold {number} of task {task} has no clip of class "
                f"{', '.join(missing)}: choose fewer folds, another {stage}.fold_seed, or leave the class out of tasks.{task}")
    return clips.assign(fold=fold)


def require_all(clips: pd.DataFrame, task: str, classes: list) -> None:
    """Raise UserError if a class of the task has no clip."""
    absent = [name for name in classes if name not in set(clips.loc[clips["left_out"] == "", "label"])]
    require(not absent, f"task {task}: no clip of class {', '.join(absent)} in data/frames/{task}/clips.csv; take it out of "
            f"tasks.{task}.classes or add clips")


def check_apart(table: pd.DataFrame, inside: dict[str, np.ndarray]) -> None:
    """Raise AssertionError if a group has rows in two parts of a fold.

    Args:
        table: a row per frame, with a column group.
        inside: part → mask [N] of its rows.
    """
    times = Counter(group for mask in inside.values() for group in table["group"][mask].unique())
    both = sorted(group for group, count in times.items() if count > 1)
    assert not both, f"patients on both sides of a fold: {both}"


def parts(
    clips: pd.DataFrame, task: str, seed: int, fold: int, label_fraction: float, inner_fraction: float
) -> dict[str, set[str]]:
    """The clips of one fold: `training`, `inner` (validation) and `held_out`. Clips whose label is not used are in no part.

    Both draws take whole groups: first those whose labels are used, then, among these, the inner part. Each takes the first
    groups of each class in one random order. Seed and fold decide the order, so a smaller `label_fraction` draws a subset of
    what a larger one draws. A group with clips of two classes counts in both.

    Args:
        clips: with the columns that `with_folds` adds.
        seed, fold: of the draws.
        label_fraction: of each class's groups outside the fold, whose labels are used; rounded, at least one group.
        inner_fraction: of each class's groups among them, set aside to choose the epoch, at least one group; 0: none.

    Raises:
        UserError: a class has no group left to train on.
    """
    used = clips[clips["left_out"] == ""]
    held_out = used["fold"] == fold
    draw = np.random.default_rng([seed, fold])
    labelled = _share(used[~held_out], label_fraction, draw)
    inner = _share(labelled, inner_fraction, draw) if inner_fraction else labelled[:0]
    training = labelled.drop(inner.index)
    bare = sorted(set(used["label"]) - set(training["label"]))
    require(not bare, f"params.yaml: finetune.label_fraction is {label_fraction} and finetune.inner_fraction {inner_fraction}: "
            f"this leaves class {', '.join(bare)} of task {task} without patients to train on in fold {fold}; choose more "
            "labels or finetune.select: last_epoch")
    return {"training": set(training["clip"]), "inner": set(inner["clip"]), "held_out": set(used["clip"][held_out])}


def _share(clips: pd.DataFrame, fraction: float, draw: np.random.Generator) -> pd.DataFrame:
    """The clips of a fraction of each class's groups, at least one group each."""
    names = sorted(clips["group"].unique())
    order = dict(zip(draw.permutation(names), range(len(names)), strict=True))
    pairs = clips[["label", "group"]].drop_duplicates()
    by_class = pairs.iloc[pairs["group"].map(order).argsort()].groupby("label")["group"]
    drawn = by_class.cumcount() < (by_class.transform("size") * fraction).round().clip(lower=1)
    return clips[clips["group"].isin(pairs.loc[drawn[drawn].index, "group"])]
