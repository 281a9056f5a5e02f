"""Who is held out, who is trained on and who chooses the epoch: always whole patients, each class in like parts."""

from collections import Counter

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from stages.lib.params import require


def with_folds(clips: pd.DataFrame, task: str, folds: int, fold_seed: int, stage: str) -> pd.DataFrame:
    """The clip table with a column `fold`: groups (column `group`) whole, classes in like parts; <NA> for clips left out.

    Args:
        stage: that asks, as the sentences name it.

    Raises:
        UserError: fewer patients than folds, or a fold without a clip of some class. A class that is in every fold is in
            every training part, too.
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
    """Raise AssertionError if a group has lines of the table in two parts of a fold (part → which lines are in it)."""
    times = Counter(group for where in inside.values() for group in table["group"][where].unique())
    both = sorted(group for group, count in times.items() if count > 1)
    assert not both, f"patients on both sides of a fold: {both}"


def parts(
    clips: pd.DataFrame, task: str, seed: int, fold: int, label_fraction: float, inner_fraction: float
) -> dict[str, set[str]]:
    """The clips of one fold's `training`, `inner` (validation), `held_out`; those whose label is not used are in none.

    Labels are drawn first, and the inner part out of what they leave, both by whole groups: of each class the first so many
    of one random order. The same seed and fold give the same order, so that a smaller `label_fraction` takes a part of what a
    larger one takes. A group with clips of two classes counts in both.

    Args:
        clips: with the columns that `with_folds` adds.
        seed: of the draws, with `fold`.
        label_fraction: of each class's groups outside the fold that are trained on, rounded, one at least.
        inner_fraction: of each class's groups among those that are set aside to choose the epoch, one at least; 0: none.

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
    """The clips of a fraction of each class's groups, one group at least."""
    names = sorted(clips["group"].unique())
    order = dict(zip(draw.permutation(names), range(len(names)), strict=True))
    pairs = clips[["label", "group"]].drop_duplicates()
    by_class = pairs.iloc[pairs["group"].map(order).argsort()].groupby("label")["group"]
    chosen = by_class.cumcount() < (by_class.transform("size") * fraction).round().clip(lower=1)
    return clips[clips["group"].isin(pairs.loc[chosen[chosen].index, "group"])]
