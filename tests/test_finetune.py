"""Cross-validation: who is predicted by whom, and what is written."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_frame_store

from stages import finetune
from stages.lib import checkpoint
from stages.lib.networks import Backbone
from stages.lib.params import UserError

VIEWS = {"crop_scale": [0.8, 1.0], "crop_ratio": [0.75, 1.333], "flip_probability": 0.5, "brightness": 0.0,
         "contrast": 0.0, "mean": 0.5, "std": 0.25}
SETTINGS = {"seed": 0, "task": "toy", "init": "pretrained", "trainable": "last_block", "folds": 3, "fold_seed": 0,
            "epochs": 3, "batch_size": 8, "views": VIEWS,
            "optimizer": {"name": "adam", "learning_rate": 0.01, "weight_decay": 0.0001, "warmup_fraction": 0.0,
                          "constant_fraction": 0.0, "gradient_norm": None},
            "assemble_us4": {"copy_distance": {"clips": 0.25, "stills": 0.15}},
            "tasks": {"toy": {"classes": ["ill", "well"], "subsets": ["convex"]}}}


@pytest.fixture
def toy(workspace):
    """12 patients of two classes, one to three clips each; one clip of another class, one linear, one broken."""
    clips = [{"clip": f"{patient}-{number}.mp4", "patient": f"p{patient}", "label": ["ill", "well"][patient % 2],
              "frames_kept": 2 + number} for patient in range(12) for number in range(1 + patient % 3)]
    clips += [{"clip": "alone.mp4", "label": "ill"}, {"clip": "viral.mp4", "label": "viral"},
              {"clip": "linear.mp4", "label": "ill", "subset": "linear"},
              {"clip": "z.mp4", "label": "ill", "left_out": "broken"}]
    write_frame_store(workspace / "data/frames/toy", [{"subset": "convex"} | clip for clip in clips])
    torch.manual_seed(1)
    checkpoint.write(Backbone("resnet18").network.state_dict(), {"arch": "resnet18"})
    return workspace


def outputs():
    read = {"keep_default_na": False, "na_values": {"fold": [""]}}
    paths = ("data/folds/toy.csv", "reports/predictions/toy.csv", "reports/finetune/toy.csv")
    return [pd.read_csv(path, **read) for path in paths]


def test_every_frame_is_predicted_once_by_the_fold_of_its_patient(toy):
    finetune.main(**SETTINGS)
    folds, predictions, epochs = outputs()
    used = folds[folds["left_out"] == ""]
    assert sorted(predictions["clip"].unique()) == sorted(used["clip"])
    assert not predictions.duplicated(["clip", "frame"]).any()
    assert len(predictions) == pd.read_csv("data/frames/toy/frames.csv")["clip"].isin(used["clip"]).sum()
    fold_of = used.set_index("clip")["fold"]
    assert (predictions["fold"] == predictions["clip"].map(fold_of)).all()
    assert (used[used["patient"] != ""].groupby("patient")["fold"].nunique() == 1).all()
    assert predictions[["p_ill", "p_well"]].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    assert epochs[["fold", "epoch"]].to_numpy().tolist() == [[fold, epoch] for fold in range(3) for epoch in range(3)]


def test_what_is_left_out_stands_in_the_folds_with_its_reason(toy):
    finetune.main(**SETTINGS | {"epochs": 1})
    left_out = outputs()[0].query("left_out != ''").set_index("clip")["left_out"].to_dict()
    assert left_out == {"viral.mp4": "label viral is no class of the task", "z.mp4": "broken",
                        "linear.mp4": "subset linear is no part of the task"}


def test_copies_under_two_patients_share_a_fold_and_copies_with_two_labels_are_left_out(toy):
    """Patients 0 and 2 have the same label, 4 and 7 have not; of each the first clip, of two frames."""
    frames, table = np.load("data/frames/toy/frames.npy"), pd.read_csv("data/frames/toy/frames.csv")
    rows = {name: table.loc[table["clip"] == f"{name}-0.mp4", "row"] for name in (0, 2, 4, 7)}
    frames[rows[2]], frames[rows[7]] = frames[rows[0]], frames[rows[4]]
    np.save("data/frames/toy/frames.npy", frames)
    finetune.main(**SETTINGS | {"epochs": 1, "folds": 11})
    folds, predictions, _ = outputs()
    folds = folds.set_index("clip")
    assert folds.loc[folds["patient"].isin(["p0", "p2"]), "fold"].nunique() == 1
    assert folds["fold"].nunique() == 11
    assert folds.loc[["0-0.mp4", "2-0.mp4"], "copy_of"].tolist() == ["2-0.mp4 (distance 0.00)", "0-0.mp4 (distance 0.00)"]
    left_out = folds[folds["left_out"].str.contains("different labels")]
    assert left_out.index.tolist() == ["4-0.mp4", "7-0.mp4"] and left_out["fold"].isna().all()
    assert left_out["copy_of"].tolist() == ["7-0.mp4 (distance 0.00)", "4-0.mp4 (distance 0.00)"]
    assert not predictions["clip"].isin(left_out.index).any()
    with pytest.raises(UserError, match="has 12 patients"):                     # of 13, two in one group
        finetune.main(**SETTINGS | {"folds": 13})


def test_the_last_epochs_count_is_that_of_the_predictions(toy):
    finetune.main(**SETTINGS)
    _, predictions, epochs = outputs()
    right = (predictions["p_ill"] > predictions["p_well"]) == (predictions["label"] == "ill")
    last = epochs[epochs["epoch"] == 2].set_index("fold")
    assert last["held_out_correct"].to_dict() == right.groupby(predictions["fold"]).sum().to_dict()
    assert last["held_out_frames"].to_dict() == predictions["fold"].value_counts().to_dict()


def test_the_folds_do_not_depend_on_the_seed(toy):
    finetune.main(**SETTINGS | {"epochs": 1})
    first = outputs()
    finetune.main(**SETTINGS | {"epochs": 1, "seed": 1})
    other = outputs()
    pd.testing.assert_frame_equal(first[0], other[0])
    assert not first[1]["p_ill"].equals(other[1]["p_ill"])


def test_a_patient_on_both_sides_stops_the_run(toy, monkeypatch):
    """The guard itself: folds drawn by clip, as in the published code, must not pass."""
    def by_clip(clips, *_):
        return clips.assign(fold=pd.Series(range(len(clips)), dtype="Int64") % 3)

    monkeypatch.setattr(finetune, "with_folds", by_clip)
    with pytest.raises(AssertionError, match="patients on both sides"):
        finetune.main(**SETTINGS)


def test_an_interrupted_run_ends_with_the_same_predictions(toy, monkeypatch):
    finetune.main(**SETTINGS)
    whole = outputs()
    real = finetune.initialise
    calls = iter(range(100))

    def killed(*arguments):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(finetune, "initialise", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune.main(**SETTINGS)
    trained = []
    monkeypatch.setattr(finetune, "initialise", lambda *arguments: trained.append(1) or real(*arguments))
    finetune.main(**SETTINGS)
    assert len(trained) == 2    # a look at the weights, and the one fold that was missing
    for before, after in zip(whole, outputs(), strict=True):
        pd.testing.assert_frame_equal(before, after)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"init": "imagenet21k"}, "finetune.init is 'imagenet21k'; choose from"),
        ({"trainable": "layer3"}, "finetune.trainable is 'layer3'; choose from head, last_block, all"),
        ({"folds": 14}, "finetune.folds is 14; task toy has 13 patients"),
        ({"epochs": 0}, "finetune.epochs is 0"),
        ({"assemble_us4": {"copy_distance": {"clips": 1, "stills": 0.1}}}, "assemble_us4.copy_distance.clips is 1;"),
        ({"batch_size": 1}, "finetune.batch_size is 1"),
        ({"views": VIEWS | {"colour": 1}}, "finetune.views.colour is not a parameter"),
        ({"tasks": {"toy": {"classes": ["ill", "dead"], "subsets": []}}}, "class dead"),
        ({"tasks": {}}, "tasks has no such block"),
        ({"tasks": {"toy": {"classes": ["ill", "well"]}}}, "tasks.toy has no subsets"),
        ({"optimizer": {"name": "adam"}}, "is missing"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(toy, change, sentence):
    with pytest.raises(UserError, match=sentence):
        finetune.main(**SETTINGS | change)
    assert not (toy / "reports").exists()


def test_a_missing_checkpoint_is_named(toy):
    (toy / "models/pretrained.safetensors").unlink()
    with pytest.raises(UserError, match=r"models/pretrained.safetensors is missing"):
        finetune.main(**SETTINGS)
