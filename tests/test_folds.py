"""Folds by patient: whole groups, classes in like parts, and what is refused."""

import pandas as pd
import pytest

from stages.lib.clips.tasks import groups
from stages.lib.evaluation import folds
from stages.lib.evaluation.folds import GIVEN, divide, parts
from stages.lib.params import UserError


def clip_table(patients_of: dict[str, int], clips_each: int = 2) -> pd.DataFrame:
    """`clips_each` clips of each of so many patients per class, and a clip that is left out."""
    rows = [{"clip": f"{label} {number} {clip}", "patient": f"{label} {number}", "label": label, "left_out": ""}
            for label, count in patients_of.items() for number in range(count) for clip in range(clips_each)]
    table = pd.DataFrame([*rows, {"clip": "odd", "patient": "", "label": "odd", "left_out": "no class"}])
    return table.assign(group=groups(table), stratum=table["label"].where(table["left_out"] == "", ""))


def with_folds(table: pd.DataFrame, task: str, folds: int, seed: int, stage: str) -> pd.DataFrame:
    """The table with the folds of one division."""
    return table.assign(fold=divide(table, task, stage, folds, [seed])[str(seed)])


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


def test_one_patient_for_all_clips_is_a_sentence():
    table = clip_table({"ill": 2, "well": 2}).assign(patient="x", group="x")
    with pytest.raises(UserError, match="all of its clips have the same patient, x; folds by patient need two or more"):
        with_folds(table, "toy", 2, 0, "finetune")


@pytest.mark.parametrize("folds", [1, 7])
def test_more_folds_than_patients_or_one_is_a_sentence(folds):
    with pytest.raises(UserError, match=f"finetune.folds is {folds}; task toy has 6 patients"):
        with_folds(clip_table({"ill": 3, "well": 3}), "toy", folds, 0, "finetune")


@pytest.mark.parametrize(("well", "advice"), [(1, "which has 1 patient: add patients of this class, or leave"),
                                              (2, "which has 2 patients: choose 2 folds or fewer, or leave")])
def test_a_fold_without_a_class_is_a_sentence(well, advice):
    with pytest.raises(UserError, match=rf"fold \d of task toy has no clip of class well, {advice}"):
        with_folds(clip_table({"ill": 12, "well": well}), "toy", 3, 0, "finetune")


def test_another_division_is_advised_where_it_may_help():
    """Three patients of a class in three folds, of which one has two."""
    fold = pd.Series([0, 1, 2, 0, 0, 1], dtype="Int64")
    used = pd.DataFrame({"label": ["ill"] * 3 + ["well"] * 3, "group": list("abcdef")})
    with pytest.raises(UserError, match="which has 3 patients: choose fewer folds, another fold seed than 7, or leave"):
        folds._require_classes(used, fold, "toy", "finetune", 7, False)


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


def test_several_fold_seeds_give_a_division_each():
    table = clip_table({"ill": 12, "well": 6})
    both = divide(table, "toy", "finetune", 3, [0, 4])
    assert list(both) == ["0", "4"]
    for seed, fold in both.items():
        assert fold.equals(with_folds(table, "toy", 3, int(seed), "finetune")["fold"])


def test_as_many_folds_as_patients_leave_one_out():
    table = clip_table({"ill": 4, "well": 3})
    found = with_folds(table, "toy", 7, 0, "finetune")
    used = found[found["left_out"] == ""]
    assert used.groupby("fold")["patient"].unique().map(list).tolist() == [[name] for name in sorted(used["patient"].unique())]
    assert list(divide(table, "toy", "finetune", 7, [2, 0, 1])) == ["0"]        # all divisions would be this one
    with pytest.raises(UserError, match="no clip of class well to train on, which has 1 patient: add patients"):
        with_folds(clip_table({"ill": 4, "well": 1}), "toy", 5, 0, "finetune")


def test_tasks_that_share_a_stratum_share_their_folds():
    """Other classes of the same clips, some of them left out: the folds of the others stay."""
    table = clip_table({"ill": 12, "well": 12})
    table["stratum"] = table["label"].where(table["label"] != "odd", "")
    first = with_folds(table, "toy", 3, 0, "finetune")["fold"]
    other = table.assign(label=["even" if number % 2 else "uneven" for number in range(len(table))])
    other["left_out"] = ["no class" if number in (0, 1, 7) or table["clip"][number] == "odd" else "" for number in table.index]
    second = with_folds(other, "toy", 3, 0, "finetune")["fold"]
    assert second.isna().sum() == 4 and (first == second)[second.notna()].all()


def test_folds_of_the_clip_table_are_taken_as_they_are(capsys):
    table = clip_table({"ill": 6, "well": 6})
    given = [str(1 + number // 2 % 3) for number in range(24)]
    (name, fold), = divide(table.assign(fold=[*given, ""]), "toy", "finetune", 5, [0, 1]).items()
    assert name == GIVEN and fold[:24].tolist() == [int(value) - 1 for value in given] and fold.isna().tolist()[-1]
    said = capsys.readouterr().out
    assert "warning" not in said
    assert "column fold of clips.csv divides the clips; folds and fold seeds of params.yaml are not used" in said
    given[0] = "3"
    divide(table.assign(fold=[*given, ""]), "toy", "finetune", 5, [0])
    assert "both sides: ill 0;" in capsys.readouterr().out


def test_a_given_split_tests_only_its_test_clips():
    table = clip_table({"ill": 6, "well": 6})
    words = ["test" if number % 12 < 4 else "train" for number in range(24)]
    upper = divide(table.assign(split=[*map(str.upper, words), ""]), "toy", "finetune", 5, [0])[GIVEN]
    fold = divide(table.assign(split=[*words, ""]), "toy", "finetune", 5, [0])[GIVEN]
    part = parts(table.assign(fold=fold), "toy", 0, 0, 1.0, 0.0)
    assert upper.equals(fold)
    expected = {word: {clip for clip, own in zip(table["clip"], words, strict=False) if own == word} for word in set(words)}
    assert part["held_out"] == expected["test"] and part["training"] == expected["train"]
    for wrong, sentence in ((["tset", *words[1:]], "holds tset; write train or test"),
                            (["", *words[1:]], "is empty for ill 0 0"),
                            (["train"] * 24, "needs clips to train on and clips to test"),
                            (["train"] * 12 + ["test"] * 12, "leaves no clip of class well to train on where test is held")):
        with pytest.raises(UserError, match=sentence):
            divide(table.assign(split=[*wrong, ""]), "toy", "finetune", 5, [0])
