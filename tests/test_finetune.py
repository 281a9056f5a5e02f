"""Cross-validation: who is predicted by whom, and what is written."""

import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from conftest import write_frame_store
from safetensors import safe_open

from stages import finetune
from stages.lib.clips import store
from stages.lib.clips.tasks import read_task
from stages.lib.evaluation import cross_validation, floors, preparation
from stages.lib.evaluation.fine_tuning import inner_loss, predict
from stages.lib.evaluation.preparation import TaskFrames
from stages.lib.networks import checkpoint
from stages.lib.networks.backbone import Backbone, Classifier
from stages.lib.params import UserError, checked
from stages.lib.report import results
from stages.lib.report.neighbourhoods import Map
from stages.lib.training.views import Views

ARCH = "shufflenet_v2_x0_5"      # the smallest there is
VIEWS = {"crop_scale": [0.8, 1.0], "crop_ratio": [0.75, 1.333], "flip_probability": 0.5, "brightness": 0.0,
         "contrast": 0.0, "mean": 0.5, "std": 0.25}
PROBES = {"neighbours": 3, "regularisation": 1.0, "max_frames": 100}
SETTINGS = {"seed": 0, "task": "toy", "init": "pretrained", "trainable": "last_block",
            "head": {"hidden_width": None, "dropout": 0.0}, "frozen_statistics": "fixed", "select": "last_epoch",
            "inner_fraction": 0.3, "label_fraction": 1.0, "seeds": [0], "folds": 3, "fold_seeds": [0], "epochs": 3,
            "min_steps": 0, "head_first": 0.0, "backbone_rate": 1.0, "measure_every": 1, "batch_size": 8, "views": VIEWS,
            "optimizer": {"name": "adam", "learning_rate": 0.01, "weight_decay": 0.0001, "warmup_fraction": 0.0,
                          "constant_fraction": 0.0, "gradient_norm": None},
            "probes": PROBES, "grad_cam": {"per_fold": 1},
            "copy_distance": {"clips": 0.25, "stills": 0.15},
            "tasks": {"toy": {"classes": ["ill", "well"], "subsets": ["convex"]}}}


@pytest.fixture
def toy(workspace, monkeypatch):
    """12 patients of two classes, one to three clips each; one clip of another class, one linear, one broken.

    The floors (tests/test_floors.py) have few trees here: a hundred take longer than all the rest.
    """
    monkeypatch.setattr(floors, "TREES", 3)
    clips = [{"clip": f"{patient}-{number}.mp4", "patient": f"p{patient}", "label": ["ill", "well"][patient % 2],
              "frames_kept": 2 + number} for patient in range(12) for number in range(1 + patient % 3)]
    clips += [{"clip": "alone.mp4", "label": "ill"}, {"clip": "viral.mp4", "label": "viral"},
              {"clip": "linear.mp4", "label": "ill", "subset": "linear"},
              {"clip": "z.mp4", "label": "ill", "left_out": "broken"}]
    write_frame_store(workspace / "data/frames/toy", [{"subset": "convex"} | clip for clip in clips])
    torch.manual_seed(1)
    checkpoint.write(Backbone(ARCH).network.state_dict(), {"arch": ARCH})
    return workspace


def run(settings):
    """As `python -m stages.finetune toy` does: the block is checked before main() is called."""
    given = {name: settings[name] for name in ("seed", "task", "tasks", "copy_distance")}
    block = {name: value for name, value in settings.items() if name not in given}
    finetune.main(**given, **checked(finetune.main, block, "finetune", given))


def outputs():
    read = {"keep_default_na": False, "na_values": {"fold": [""], "inner_loss": [""], "held_out_correct": [""]}}
    paths = ("data/folds/toy.csv", "reports/predictions/toy.csv", "reports/finetune/toy.csv", "reports/probes/toy.csv")
    return [pd.read_csv(path, **read) for path in paths]


def test_every_frame_is_predicted_once_by_the_fold_of_its_patient(toy):
    finetune.main(**SETTINGS)
    folds, predictions, epochs, _ = outputs()
    used = folds[folds["left_out"] == ""]
    assert sorted(predictions["clip"].unique()) == sorted(used["clip"])
    assert not predictions.duplicated(["clip", "frame"]).any()
    assert len(predictions) == pd.read_csv("data/frames/toy/frames.csv")["clip"].isin(used["clip"]).sum()
    fold_of = used.set_index("clip")["fold"]
    assert (predictions["fold"] == predictions["clip"].map(fold_of)).all()
    assert (used[used["patient"] != ""].groupby("patient")["fold"].nunique() == 1).all()
    assert predictions[["p_ill", "p_well"]].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    assert epochs[["fold", "epoch"]].to_numpy().tolist() == [[fold, epoch] for fold in range(3) for epoch in range(3)]


def test_weights_that_need_their_metadata_can_be_kept(toy):
    """MNASNet refuses weights without it."""
    checkpoint.write(Backbone("mnasnet0_5").network.state_dict(), {"arch": "mnasnet0_5"})
    finetune.main(**SETTINGS | {"epochs": 1, "select": "inner_validation"})
    assert outputs()[1][["p_ill", "p_well"]].notna().all(axis=None)


def test_a_network_for_use_that_gives_no_numbers_is_refused(toy, monkeypatch):
    """The cross-validation may keep an epoch before the one in which the running statistics overflow."""
    real = cross_validation.fit

    def broken(recipe, frames, training, stream):
        for network, loss in real(recipe, frames, training, stream):
            if len(training) == len(frames.grey):
                next(network.buffers()).fill_(math.nan)
            yield network, loss

    monkeypatch.setattr(cross_validation, "fit", broken)
    with pytest.raises(UserError, match=r"outputs of the network for use are not finite .* lower finetune\.optimizer"):
        finetune.main(**SETTINGS | {"epochs": 1})
    assert not (toy / "models/toy.safetensors").exists()


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
    finetune.main(**SETTINGS | {"epochs": 1, "folds": 4})
    folds, predictions, *_ = outputs()
    folds = folds.set_index("clip")
    assert folds.loc[folds["patient"].isin(["p0", "p2"]), "fold"].nunique() == 1
    assert folds["fold"].nunique() == 4
    assert folds.loc[["0-0.mp4", "2-0.mp4"], "copy_of"].tolist() == ["2-0.mp4 (distance 0.00)", "0-0.mp4 (distance 0.00)"]
    left_out = folds[folds["left_out"].str.contains("different labels")]
    assert left_out.index.tolist() == ["4-0.mp4", "7-0.mp4"] and left_out["fold"].isna().all()
    assert left_out["copy_of"].tolist() == ["7-0.mp4 (distance 0.00)", "4-0.mp4 (distance 0.00)"]
    assert not predictions["clip"].isin(left_out.index).any()
    with pytest.raises(UserError, match="has 12 patients"):                     # of 13, two in one group
        finetune.main(**SETTINGS | {"folds": 13})


def test_the_last_epochs_count_is_that_of_the_predictions(toy):
    finetune.main(**SETTINGS)
    _, predictions, epochs, _ = outputs()
    right = (predictions["p_ill"] > predictions["p_well"]) == (predictions["label"] == "ill")
    last = epochs[epochs["epoch"] == 2].set_index("fold")
    assert last["held_out_correct"].to_dict() == right.groupby(predictions["fold"]).sum().to_dict()
    assert last["held_out_frames"].to_dict() == predictions["fold"].value_counts().to_dict()


@pytest.mark.parametrize("select", ["last_epoch", "inner_validation"])
def test_fewer_predictions_of_the_held_out_frames_change_no_other_number(toy, monkeypatch, select):
    """Every third epoch and the kept one are counted; the other columns and the files stay byte for byte as they are."""
    asked = []

    def counting(network, frames, rows, views):
        asked.append(len(rows))
        return predict(network, frames, rows, views)

    settings, written = SETTINGS | {"epochs": 5, "select": select}, []
    monkeypatch.setattr(cross_validation, "predict", counting)
    for every in (1, 3):
        asked.clear()
        run(settings | {"measure_every": every})
        written.append([path.read_bytes() for path in (Path("reports/predictions/toy.csv"), Path("models/toy.safetensors"),
                                                       *sorted(Path("reports/grad_cam/toy").iterdir()))])
        epochs = outputs()[2].set_index(["fold", "epoch"])
        assert len(asked) == 3 * (5 // every + 1) + 1       # one by the network for use
        if every == 1:
            counts = epochs["held_out_correct"]
    kept = epochs["inner_loss"].groupby("fold").idxmin() if select == "inner_validation" else [(fold, 4) for fold in range(3)]
    counted = [(fold, 2) for fold in range(3)] + list(kept)
    assert counts.notna().all() and epochs["held_out_correct"].dropna().to_dict() == counts.loc[list(set(counted))].to_dict()
    assert written[0] == written[1]


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
        return {"0": pd.Series(range(len(clips)), dtype="Int64") % 3}

    monkeypatch.setattr(preparation, "divide", by_clip)
    with pytest.raises(AssertionError, match="patients on both sides"):
        finetune.main(**SETTINGS)


@pytest.mark.parametrize("killed_at", [4, 5])
def test_an_interrupted_run_ends_with_the_same_predictions(toy, monkeypatch, killed_at):
    """Killed in the last fold of the second seed, and in the training on all patients."""
    settings = SETTINGS | {"seeds": [0, 1], "folds": 2, "epochs": 2}
    model = toy / "models/toy.safetensors"
    finetune.main(**settings)
    beside = [Path("reports", name) for name in ("grad_cam/toy/maps.npy", "grad_cam/toy/maps.csv", "features/toy/features.npy")]
    whole = [*outputs(), model.read_bytes(), *(path.read_bytes() for path in beside)]
    model.unlink()
    shutil.rmtree("reports/grad_cam")
    real, calls = cross_validation.fit, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(cross_validation, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune.main(**settings)
    assert not model.exists()
    trained = []
    monkeypatch.setattr(cross_validation, "fit", lambda *arguments: trained.append(1) or real(*arguments))
    finetune.main(**settings)
    assert len(trained) == 6 - killed_at      # the fold that was missing, if one was, and all patients
    again = [*outputs(), model.read_bytes(), *(path.read_bytes() for path in beside)]
    for before, after in zip(whole, again, strict=True):
        assert before.equals(after) if isinstance(before, pd.DataFrame) else before == after
    assert not list((toy / "models").glob("*.unfinished"))


def test_a_run_with_other_folds_does_not_go_on_from_the_state(toy):
    """`stratify` changes nothing but the folds."""
    blocks = [{"classes": ["ill", "well"]} | more for more in ({}, {"stratify": "subset"})]
    keys = [preparation.unfinished_run("finetune", read_task("toy", {"toy": block}), "pretrained", {}, ["clips.csv"]).key
            for block in blocks]
    assert keys[0] != keys[1]


def test_a_given_split_is_predicted_and_reported_for_its_test_clips_alone(toy):
    path = toy / "data/frames/toy/clips.csv"
    table = store.table(path)
    tested = table["patient"].isin(["p0", "p1", "p2", "p3"])
    table.assign(split=np.where(tested, "test", "train")).to_csv(path, index=False)
    finetune.main(**SETTINGS | {"epochs": 1})
    found = results.evaluate(read_task("toy", SETTINGS["tasks"]), [], 100, 0.95, 0)
    assert found["given"] and found["metrics"]["clips"] == len(found["clips"]) == tested.sum() == 7
    of_run = Map(15, 0).drawn("reports/features/toy", {"label": ["ill", "well"]}, found["clips"].set_index("clip")["right"])
    assert of_run["clips"] == 7


@pytest.mark.parametrize("statistics", ["fixed", "updated"])
def test_fine_tuning_is_a_plain_loop_over_the_folds(toy, statistics):
    """Loss curve and probabilities, bit for bit; with `updated` of what the published code does, but for folds and epoch."""
    finetune.main(**SETTINGS | {"seed": 2, "frozen_statistics": statistics})
    folds, predictions, epochs, _ = outputs()
    data = store.read("data/frames/toy")
    fold_of = folds.set_index("clip")["fold"].reindex(data.frame_table["clip"]).to_numpy()
    label = torch.tensor((data.frame_table["clip"].map(folds.set_index("clip")["label"]) == "well").to_numpy()).long()
    frames, views = torch.tensor(data.frames[:, None]), Views(**VIEWS)
    for fold in range(3):
        torch.manual_seed(2 * 3 + fold)
        network = Classifier(Backbone(ARCH), 2)
        network.backbone.network.load_state_dict(checkpoint.weights())
        network.train_only("last_block")
        draw = torch.Generator().manual_seed(2 * 3 + fold)
        rows = torch.tensor(((fold_of != fold) & (fold_of == fold_of)).nonzero()[0])
        steps = 3 * -(-len(rows) // 8)
        optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], weight_decay=1e-4, fused=True)
        step = 0
        for loss_written in epochs.query("fold == @fold")["loss"]:
            network.train()
            frozen = [module for module in network.modules()
                      if isinstance(module, torch.nn.BatchNorm2d) and not module.weight.requires_grad]
            assert len(frozen) > 10
            for module in frozen:
                module.train(statistics == "updated")
            total = 0.0
            for batch in rows[torch.randperm(len(rows), generator=draw)].split(8):
                optimizer.param_groups[0]["lr"] = 0.01 * (1 + math.cos(math.pi * step / steps)) / 2
                seen = views.normalise(views(frames[batch].float() / 255, draw))
                loss = torch.nn.functional.cross_entropy(network(seen), label[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total, step = total + loss.detach() * len(batch), step + 1
            assert loss_written == float(total) / len(rows)
        network.eval()
        with torch.no_grad():
            chances = network(views.normalise(frames[torch.tensor(fold_of == fold)].float() / 255)).softmax(1)
        held_out = predictions.query("fold == @fold")[["p_ill", "p_well"]].to_numpy()
        assert (held_out == chances.numpy().round(6).astype(str).astype(float)).all()


def test_each_seed_is_the_run_of_that_seed_alone(toy):
    settings = SETTINGS | {"epochs": 1, "folds": 2, "init": "random"}
    finetune.main(**settings | {"seed": 1, "seeds": [0, 2]})
    both = outputs()
    for seed in (1, 3):
        finetune.main(**settings | {"seed": seed})
        alone = outputs()
        assert both[0].equals(alone[0])
        for table, single in zip(both[1:3], alone[1:3], strict=True):
            assert table[table["seed"] == seed].reset_index(drop=True).equals(single)


def test_the_inner_part_chooses_the_epoch_and_the_held_out_frames_have_no_say(toy, monkeypatch):
    """Other pictures in a held-out fold change neither its training nor the choice; the choice is the first lowest loss, and
    the last epoch's is raised, or all might choose the last one by chance.
    """
    raised, real = itertools.cycle([0.0, 0.0, 0.0, 9.0]), cross_validation.inner_loss
    monkeypatch.setattr(cross_validation, "inner_loss", lambda *given: real(*given) + next(raised))
    settings = SETTINGS | {"select": "inner_validation", "epochs": 4}
    finetune.main(**settings)
    _, predictions, epochs, _ = outputs()
    right = (predictions["p_ill"] > predictions["p_well"]) == (predictions["label"] == "ill")
    chosen = epochs.loc[epochs.groupby("fold")["inner_loss"].idxmin()].set_index("fold")
    assert chosen["held_out_correct"].to_dict() == right.groupby(predictions["fold"]).sum().to_dict()
    assert (chosen["epoch"] < 3).all()
    frames = np.load("data/frames/toy/frames.npy")
    rows = pd.read_csv("data/frames/toy/frames.csv")["clip"].isin(predictions.query("fold == 0")["clip"])
    frames[rows] = 255 - frames[rows]
    np.save("data/frames/toy/frames.npy", frames)
    finetune.main(**settings)
    first, again = (table.query("fold == 0")[["loss", "inner_loss"]] for table in (epochs, outputs()[2]))
    assert first.equals(again)


@pytest.mark.parametrize(("losses", "kept"), [([0.7, 0.5, 0.6], 1), ([math.nan, 0.5, 0.6], 1), ([0.5, math.nan, 0.4], 2),
                                              ([math.inf, 0.9], 1), ([math.nan, math.nan], 0)])
def test_the_epoch_of_the_lowest_finite_inner_loss_predicts(losses, kept):
    epochs = range(len(losses))
    assert max(epoch for epoch in epochs if cross_validation.is_kept(losses[: epoch + 1], len(losses), True)) == kept


@pytest.mark.parametrize("mode", ["last_epoch", "inner_validation"])
def test_a_training_that_diverges_says_what_to_lower(toy, mode):
    with pytest.raises(UserError, match=r"(the loss is|outputs are) .*; lower finetune.optimizer.learning_rate"):
        finetune.main(**SETTINGS | {"select": mode, "optimizer": SETTINGS["optimizer"] | {"name": "sgd", "learning_rate": 1e9}})
    assert not Path("reports/predictions/toy.csv").exists()


def test_of_equal_inner_losses_the_earlier_epoch_predicts(toy, monkeypatch):
    """After each epoch the network's logits are its number and 0 here."""
    epochs = itertools.cycle([(0.7, 0.0), (0.5, 1.0), (0.5, 2.0)])

    def loss_of(network, *_):
        loss, number = next(epochs)
        network.linear.weight.data.zero_()
        network.linear.bias.data.copy_(torch.tensor([number, 0.0]))
        return loss

    monkeypatch.setattr(cross_validation, "inner_loss", loss_of)
    finetune.main(**SETTINGS | {"select": "inner_validation"})
    assert outputs()[1]["p_ill"].to_numpy() == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-6)


def test_the_inner_loss_is_the_mean_cross_entropy_of_its_frames(toy):
    network, views = Classifier(Backbone(ARCH), 2), Views(**VIEWS)
    grey = torch.randint(0, 256, (5, 1, 32, 32), dtype=torch.uint8)
    frames = TaskFrames(grey, torch.tensor([0, 1, 1, 0, 1]), pd.DataFrame())
    chances = predict(network, frames, torch.tensor([1, 3]), views).softmax(1)
    expected = -(math.log(chances[0, 1]) + math.log(chances[1, 0])) / 2
    assert inner_loss(network, frames, torch.tensor([1, 3]), views) == pytest.approx(expected, rel=1e-5)


def test_fewer_labels_leave_the_held_out_clips_as_they_are(toy, monkeypatch):
    finetune.main(**SETTINGS | {"epochs": 1})
    whole = outputs()
    trained, real = [], cross_validation.fit
    monkeypatch.setattr(cross_validation, "fit", lambda *given: trained.append(given[2]) or real(*given))
    finetune.main(**SETTINGS | {"epochs": 1, "label_fraction": 0.3})
    few = outputs()
    keys = ["seed", "clip", "fold", "frame", "label"]
    assert few[0].equals(whole[0]) and few[1][keys].equals(whole[1][keys])
    clips = store.read("data/frames/toy").frame_table["clip"]
    patients = few[0].set_index("clip")["patient"]
    used = clips[clips.isin(few[1]["clip"])].reset_index(drop=True)
    held_out = [set(few[1]["clip"][few[1]["fold"] == fold]) for fold in range(3)]
    for rows, others in zip(trained[:3], held_out, strict=True):
        drawn = set(used[rows.numpy()])
        assert 2 <= patients[list(drawn)].nunique() <= 4 and not drawn & others
    assert len(trained[3]) == len(used)     # the network for use is trained on all


def test_the_probes_predict_every_clip_once(toy):
    settings = SETTINGS | {"epochs": 1, "folds": 2, "label_fraction": 0.5}
    finetune.main(**settings | {"seeds": [0, 1]})
    folds, _, _, probes = outputs()
    used = folds[folds["left_out"] == ""].set_index("clip")
    for name in ("linear", "knn"):
        own = probes[probes["probe"] == name].set_index("clip")
        assert sorted(own.index) == sorted(used.index)
        for column in ("patient", "fold", "label"):
            assert (own[column] == used[column].reindex(own.index)).all()
        assert own[["p_ill", "p_well"]].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    finetune.main(**settings)
    assert outputs()[3].equals(probes)      # they are those of the first seed's patients


def test_the_network_for_use_is_torchvisions_with_what_is_needed_to_use_it(toy):
    finetune.main(**SETTINGS | {"seed": 2, "seeds": [3, 0]})
    with safe_open("models/toy.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["sonopair"])
        weights = {name: file.get_tensor(name) for name in file.keys()}     # noqa: SIM118 (it is no dict)
    assert facts == {"task": "toy", "arch": ARCH, "classes": ["ill", "well"], "size_px": 32, "mean": 0.5, "std": 0.25,
                     "frame_rate_hz": 3.0, "max_frames_per_clip": 30, "assumed_frame_rate_hz": 25.0, "seed": 5, "epochs": 3,
                     "init": "pretrained", "trainable": "last_block", "threads": [torch.get_num_threads()] * 2}
    network = torchvision.models.get_model(ARCH, num_classes=2)
    network.load_state_dict(weights)
    initial = checkpoint.weights()
    changed = {name.rpartition(".")[0] for name in initial if not name.endswith(("mean", "var", "tracked"))
               if not torch.equal(initial[name], weights[name])}
    assert changed == {"conv5.0", "conv5.1"}      # the last block


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"init": "imagenet21k"}, "finetune.init is 'imagenet21k'; it must be random, imagenet"),
        ({"trainable": "layer3"}, "finetune.trainable is 'layer3'; it must be 'last_block', 'head' or 'all'"),
        ({"folds": 14}, "finetune.folds is 14; task toy has 13 patients"),
        ({"epochs": 0}, "finetune.epochs is 0; it must be 1 or more"),
        ({"head": {"hidden_width": None, "dropout": 0.4}}, "finetune.head.dropout is 0.4; it drops units of the hidden layer"),
        ({"head": {"hidden_width": 8, "dropout": 1.0}}, "finetune.head.dropout is 1.0; it must be below 1"),
        ({"folds": 12}, "has no clip of class"),
        ({"select": "best_epoch"}, "finetune.select is 'best_epoch'; it must be 'last_epoch' or 'inner_validation'"),
        ({"inner_fraction": 1.0}, "finetune.inner_fraction is 1.0"),
        ({"label_fraction": 0.0}, "finetune.label_fraction is 0.0; it must be above 0"),
        ({"label_fraction": 1.5}, "finetune.label_fraction is 1.5"),
        ({"label_fraction": 0.1, "select": "inner_validation"}, "without patients to train on"),
        ({"seeds": []}, r"finetune.seeds is \[\]"),
        ({"seeds": [1, 1]}, r"finetune.seeds is \[1, 1\]; it must be a list that holds each value once"),
        ({"seeds": [0.5]}, "finetune.seeds.0 is 0.5; it must be a whole number"),
        ({"seeds": [-1]}, "finetune.seeds.0 is -1; it must be 0 or more"),
        ({"probes": PROBES | {"neighbours": 0}}, "finetune.probes.neighbours is 0"),
        ({"probes": PROBES | {"regularisation": 0.0}}, "finetune.probes.regularisation is 0"),
        ({"probes": PROBES | {"max_frames": 0}}, "finetune.probes.max_frames is 0"),
        ({"probes": PROBES | {"strength": 1.0}}, "finetune.probes.strength is not a parameter"),
        ({"grad_cam": {"per_fold": -1}}, "finetune.grad_cam.per_fold is -1"),
        ({"grad_cam": {}}, "per_fold is missing"),
        ({"copy_distance": {"clips": 1, "stills": 0.1}}, "copy_distance.clips is 1; it must be below 0.5"),
        ({"batch_size": 1}, "finetune.batch_size is 1"),
        ({"views": VIEWS | {"colour": 1}}, "finetune.views.colour is not a parameter"),
        ({"tasks": {"toy": {"classes": ["ill", "dead"], "subsets": []}}}, "class dead"),
        ({"tasks": {}}, "there is no block tasks.toy; add it"),
        ({"tasks": {"toy": {"subsets": []}}}, "tasks.toy.classes is missing"),
        ({"optimizer": {"name": "adam"}}, "is missing"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(toy, change, sentence):
    with pytest.raises(UserError, match=sentence):
        run(SETTINGS | change)
    assert not (toy / "reports").exists() and not (toy / "data/folds").exists()
    assert [path.name for path in (toy / "models").iterdir()] == ["pretrained.safetensors"]


def test_a_missing_checkpoint_is_named(toy):
    (toy / "models/pretrained.safetensors").unlink()
    with pytest.raises(UserError, match=r"models/pretrained.safetensors is missing"):
        finetune.main(**SETTINGS)
