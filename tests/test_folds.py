"""Folds by patient: whole groups, classes in like parts, and what is refused."""

import pandas as pd
import pytest

from stages.lib.folds import with_folds
from stages.lib.params import UserError


def clip_table(patients_of: dict[str, int], clips_each: int = 2) -> pd.DataFrame:
    """`clips_each` clips of each of so many patients per class, and a clip that is left out."""
    rows = [{"clip": f"{label} {number} {clip}", "patient": f"{label} {number}", "label": label, "left_out": ""}
            for label, count in patients_of.items() for number in range(count) for clip in range(clips_each)]
    return pd.DataFrame([*rows, {"clip": "odd", "patient": "", "label": "odd", "left_out": "no class"}])


def test_patients_are_whole_and_every_fold_has_its_share_of_each_class():
    clips = with_folds(clip_table({"ill": 12, "well": 6}), "toy", 3, 0)
    used = clips[clips["left_out"] == ""]
    assert (used.groupby("patient")["fold"].nunique() == 1).all()
    assert used.groupby(["fold", "label"])["patient"].nunique().to_dict() == {
        (fold, label): count for fold in range(3) for label, count in (("ill", 4), ("well", 2))}
    assert clips["fold"].isna().tolist() == (clips["left_out"] != "").tolist()


def test_clips_of_unknown_patients_are_groups_of_their_own():
    table = clip_table({"ill": 3, "well": 3}, clips_each=1).assign(patient="")
    assert sorted(with_folds(table, "toy", 3, 0)["fold"].dropna()) == [0, 0, 1, 1, 2, 2]


def test_another_fold_seed_divides_otherwise_and_the_same_one_alike():
    table = clip_table({"ill": 12, "well": 6})
    first, again, other = (with_folds(table, "toy", 3, seed)["fold"] for seed in (0, 0, 1))
    assert first.equals(again) and not first.equals(other)


@pytest.mark.parametrize("folds", [1, 7])
def test_more_folds_than_patients_or_one_is_a_sentence(folds):
    with pytest.raises(UserError, match=f"finetune.folds is {folds}; task toy has 6 patients"):
        with_folds(clip_table({"ill": 3, "well": 3}), "toy", folds, 0)
