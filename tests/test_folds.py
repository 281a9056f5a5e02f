"""Folds by patient: whole groups, classes in like parts, and what is refused."""

import pandas as pd
import pytest

from stages.lib.clips.tasks import groups
from stages.lib.evaluation.folds import parts, with_folds
from stages.lib.params import UserError


def clip_table(patients_of: dict[str, int], clips_each: int = 2) -> pd.DataFrame:
    """`clips_each` clips of each of so many patients per class, and a clip that is left out."""
    rows = [{"clip": f"{label} {number} {clip}", "patient": f"{label} {number}", "label": label, "left_out": ""}
            for label, count in patients_of.items() for number in range(count) for clip in range(clips_each)]
    table = pd.DataFrame([*rows, {"clip": "odd", "patient": "", "label": "odd", "left_out": "no class"}])
    return table.assign(group=groups(table))


def test_patients_are_whole_and_every_fold_has_its_share_of_each_class():
    clips = with_folds(clip_table({"ill": 12, "well": 6}), "toy", 3, 0, "finetune")
    used = clips[clips["left_out"] == ""]
    assert (used.groupby("patient")["fold"].nunique() == 1).all()
    assert used.groupby(["fold", "label"])["patient"].nunique().to_dict() == {
        (fold, label): count for fold in range(3) for label, count in (("ill", 4), ("well", 2))}
    assert clips["fold"].isna().tolist() == (clips["left_out"] != "").tolist()


def test_clips_of_unknown_patients_are_groups_of_their_own():
    table = clip_table({"ill": 3, "well": 3}, clips_each=1).assign(patient="")
    table["group"] = groups(table)
    assert sorted(with_folds(table, "toy", 3, 0, "finetune")["fold"].dropna()) == [0, 0, 1, 1, 2, 2]


def test_another_fold_seed_divides_otherwise_and_the_same_one_alike():
    table = clip_table({"ill": 12, "well": 6})
    first, again, other = (with_folds(table, "toy", 3, seed, "finetune")["fold"] for seed in (0, 0, 1))
    assert first.equals(again) and not first.equals(other)


@pytest.mark.parametrize("folds", [1, 7])
def test_more_folds_than_patients_or_one_is_a_sentence(folds):
    with pytest.raises(UserError, match=f"finetune.folds is {folds}; task toy has 6 patients"):
        with_folds(clip_table({"ill": 3, "well": 3}), "toy", folds, 0, "finetune")


def test_a_fold_without_a_class_is_a_sentence():
    with pytest.raises(UserError, match=r"fold \d of task toy has no clip of class well: choose fewer folds"):
        with_folds(clip_table({"ill": 12, "well": 2}), "toy", 3, 0, "finetune")


def patients(table: pd.DataFrame, clips: set[str], label: str) -> set[str]:
    """Who has such a clip of the class."""
    return set(table.loc[table["clip"].isin(clips) & (table["label"] == label), "patient"])


def test_by_default_all_but_the_held_out_fold_is_trained_on():
    table = with_folds(clip_table({"ill": 6, "well": 6}), "toy", 3, 0, "finetune")
    for fold in range(3):
        part = parts(table, "toy", 0, fold, 1.0, 0.0)
        assert part["held_out"] == set(table.loc[table["fold"] == fold, "clip"]) and not part["inner"]
        assert part["training"] | part["held_out"] == set(table["clip"]) - {"odd"}


@pytest.mark.parametrize(("seed", "fold"), [(0, 0), (0, 2), (3, 1)])
def test_label_fractions_are_nested_shares_of_the_patients_of_each_class(seed, fold):
    table = with_folds(clip_table({"ill": 30, "well": 6}), "toy", 3, 0, "finetune")
    known, smaller = {"ill": 20, "well": 4}, set()
    for fraction in (0.01, 0.1, 0.25, 0.5, 0.9, 1.0):
        part = parts(table, "toy", seed, fold, fraction, 0.0)
        assert part["held_out"] == set(table.loc[table["fold"] == fold, "clip"])
        for label, count in known.items():
            drawn = patients(table, part["training"], label)
            assert len(drawn) == max(1, round(fraction * count))
            assert len(part["training"] & set(table.loc[table["label"] == label, "clip"])) == 2 * len(drawn)    # clips whole
        assert smaller <= part["training"]
        smaller = part["training"]


def test_another_seed_or_fold_draws_other_labels_whatever_the_order_of_the_clips():
    table = with_folds(clip_table({"ill": 30, "well": 30}), "toy", 3, 0, "finetune")
    drawn = [parts(clips, "toy", *pair, 0.3, 0.2) for clips, pair in
             ((table, (0, 0)), (table[::-1], (0, 0)), (table, (1, 0)), (table, (0, 1)))]
    assert drawn[0] == drawn[1]
    assert drawn[0]["training"] != drawn[2]["training"] and drawn[0]["inner"] != drawn[2]["inner"]
    assert drawn[0]["held_out"] == drawn[2]["held_out"] and drawn[0]["training"] != drawn[3]["training"]


def test_a_patient_with_clips_of_two_classes_stays_whole_and_counts_in_both():
    table = clip_table({"ill": 6, "well": 6})
    table.loc[table["clip"].str.startswith("well") & table["clip"].str.endswith("1"), "label"] = "ill"
    table = with_folds(table, "toy", 2, 0, "finetune")
    for seed in range(5):
        part = parts(table, "toy", seed, 0, 0.2, 0.0)
        whole = table[table["patient"].isin(table.loc[table["clip"].isin(part["training"]), "patient"])]
        assert set(whole["clip"]) == part["training"] and set(whole["label"]) == {"ill", "well"}


@pytest.mark.parametrize("label_fraction", [1.0, 0.5])
def test_the_inner_part_is_whole_patients_of_every_class_and_nobody_elses(label_fraction):
    table = with_folds(clip_table({"ill": 30, "well": 15}), "toy", 3, 0, "finetune")
    part = parts(table, "toy", 0, 1, label_fraction, 0.2)
    for label, count in {"ill": 20, "well": 10}.items():
        labelled = round(count * label_fraction)
        inner, training = (patients(table, part[name], label) for name in ("inner", "training"))
        assert len(inner) == round(0.2 * labelled) and len(training) == labelled - len(inner)
        assert not inner & training and not (inner | training) & patients(table, part["held_out"], label)
    alone = parts(table, "toy", 0, 1, label_fraction, 0.0)
    assert alone["training"] == part["training"] | part["inner"]


def test_a_class_without_patients_to_train_on_is_a_sentence():
    table = with_folds(clip_table({"ill": 12, "well": 4}), "toy", 2, 0, "finetune")
    with pytest.raises(UserError, match="label_fraction is 0.5 and finetune.inner_fraction 0.5: this leaves class well"):
        parts(table, "toy", 0, 0, 0.5, 0.5)
