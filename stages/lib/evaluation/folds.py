"""Who is held out, who trains and who chooses the epoch: whole patients, each class divided evenly."""

import warnings
from collections import Counter

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from stages.lib.params import UserError, require

GIVEN = "given"     # the name of the division that the clip table gives; other divisions are named by their fold seeds


def divide(clips: pd.DataFrame, task: str, stage: str, folds: int, fold_seeds: list[int]) -> dict[str, pd.Series]:
    """The divisions into folds: name → fold of each clip, <NA> for clips left out, −1 for clips that only ever train.

    A column `fold` or `split` (train | test) of the clip table is taken as it is, as the only division. Otherwise groups stay
    whole and the strata are divided evenly, once per fold seed. As many folds as groups leave one group out at a time: a single
    division, as all of them are alike.

    Args:
        clips: with the columns group, label, stratum, left_out.
        stage: finetune | segment; the sentences for the user name its keys.

    Raises:
        UserError: fewer groups than folds, or a fold without a clip of some class.
    """
    used, part = clips[clips["left_out"] == ""], clips[clips["stratum"] != ""]
    given = _given(used, task)
    if given is not None:
        return {GIVEN: given.reindex(clips.index)}
    number = part["group"].nunique()
    require(number >= 2, f"task {task}: all of its clips have the same patient, {part['group'].iloc[0]}; folds by patient need "
            "two or more, so correct the patients, or leave them empty if they are unknown")
    require(2 <= folds <= number, f"params.yaml: {stage}.folds is {folds}; task {task} has {number} patients, choose 2 to "
            f"{number}")
    found, alone = {}, folds == number
    for fold_seed in sorted(fold_seeds)[: 1 if alone else None]:
        most = part["stratum"].value_counts().max()
        require(folds in (number, min(folds, most)), f"params.yaml: {stage}.folds is {folds}; no class of task {task} has so "
                f"many clips, choose up to {most}, or {number} to leave one patient out at a time")
        fold = _leave_one_out(part) if alone else _stratified(part, folds, fold_seed)
        fold = fold[used.index].reindex(clips.index)
        _require_classes(used, fold, task, stage, fold_seed, alone)
        found[str(fold_seed)] = fold
    return found


def _stratified(clips: pd.DataFrame, folds: int, fold_seed: int) -> pd.Series:
    """Folds of whole groups, the strata divided evenly."""
    division = StratifiedGroupKFold(folds, shuffle=True, random_state=fold_seed)
    fold = pd.Series(pd.NA, index=clips.index, dtype="Int64")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)     # a rare stratum is in fewer folds
        for number, (_, held_out) in enumerate(division.split(clips, clips["stratum"], clips["group"])):
            fold[clips.index[held_out]] = number
    return fold


def _leave_one_out(clips: pd.DataFrame) -> pd.Series:
    """A fold for each group."""
    return pd.Series(pd.factorize(clips["group"], sort=True)[0], index=clips.index, dtype="Int64")


def _given(used: pd.DataFrame, task: str) -> pd.Series | None:
    """The division that the clip table gives; None if it gives none.

    Raises:
        UserError: some clips have no fold, or another word than train and test.
    """
    column = next((name for name in ("fold", "split") if name in used and (used[name].fillna("") != "").any()), None)
    if column is None:
        return None
    values = used[column].astype("string").str.strip().str.lower().fillna("")
    place = f"task {task}: the column {column} of clips.csv"
    empty = used["clip"][values == ""].tolist()
    require(not empty, f"{place} is empty for {', '.join(empty[:1])}; fill it in for all clips or for none")
    if column == "split":
        strange = sorted(set(values) - {"train", "test"})
        require(not strange, f"{place} holds {', '.join(strange)}; write train or test")
        fold = (values == "test").astype("Int64") - 1
        require(fold.nunique() == 2, f"{place} needs clips to train on and clips to test")
    else:
        numbers = pd.to_numeric(values, errors="coerce")
        order = numbers if numbers.notna().all() else values
        fold = pd.Series(pd.factorize(order, sort=True)[0], index=used.index, dtype="Int64")
        require(fold.nunique() >= 2, f"{place} holds one value; a division needs two or more")
    for number in range(fold.max() + 1):
        missing, held_out = sorted(set(used["label"]) - set(used["label"][fold != number])), values[fold == number].iloc[0]
        require(not missing, f"{place} leaves no clip of class {', '.join(missing)} to train on where {held_out} is held out; "
                "change the column, or leave the class out of the task")
    print(f"{place} divides the clips; folds and fold seeds of params.yaml are not used", flush=True)
    sides = fold.groupby(used["group"]).nunique()
    both = sorted(sides.index[sides > 1])
    if both:
        print(f"warning: {place} puts clips of one patient on both sides: {', '.join(both[:5])}{' …' * (len(both) > 5)}; the "
              "scores of such folds are too high", flush=True)
    return fold


def _require_classes(used: pd.DataFrame, fold: pd.Series, task: str, stage: str, fold_seed: int, alone: bool) -> None:
    """Raise UserError if a fold lacks a class; if groups are left out one by one, only if its training part does."""
    folds, patients = fold.max() + 1, used.groupby("label")["group"].nunique()
    for number in range(folds):
        present = used["label"][(fold[used.index] != number) == alone]
        for name in patients.index.difference(present.unique()):
            count = int(patients[name])
            advice = ("add patients of this class" if count == 1 else f"choose {count} folds or fewer" if count < folds else
                      f"choose fewer folds, another fold seed than {fold_seed}")
            raise UserError(f"params.yaml: {stage}.folds is {folds}; fold {number} of task {task} has no clip of class {name}"
                            f"{' to train on' * alone}, which has {count} patient{'s' * (count > 1)}: {advice}, or leave the "
                            f"class out of tasks.{task}")


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
        clips: with the columns clip, label, group, fold, left_out.
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
