"""Probes of frozen features: against scikit-learn used by hand and a loop over neighbours."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stages.lib.evaluation.cross_validation import Training
from stages.lib.evaluation.frozen_probes import FrozenFeatures, Probes, features, set_statistics
from stages.lib.evaluation.preparation import TaskFrames
from stages.lib.networks.backbone import Backbone
from stages.lib.training.views import Views

CLASSES = ["well", "ill", "odd"]
PARTS = [{"training": {"a0", "a1", "b0", "b1", "c0"}, "inner": {"c1"}, "held_out": {"a2", "b2", "c2"}},
         {"training": {"a2", "b2", "c2"}, "inner": set(), "held_out": {"a0", "a1", "b0", "b1", "c0", "c1"}}]
TRAININGS = [Training("0", 0, fold, 2, parts) for fold, parts in enumerate(PARTS)]


@pytest.fixture
def toy():
    """Features of 2 to 4 frames of three clips per class, and the table of the frames."""
    rng = np.random.default_rng(0)
    clips = [(f"{letter}{number}", CLASSES[place]) for place, letter in enumerate("abc") for number in range(3)]
    rows = [{"clip": clip, "patient": clip, "group": clip, "label": label}
            for clip, label in clips for _ in range(rng.integers(2, 5))]
    table = pd.DataFrame(rows)
    centres = rng.normal(size=(3, 6))
    return 3 + 2 * (centres[table["label"].map(CLASSES.index)] + rng.normal(size=(len(table), 6))), table


def test_probabilities_are_those_of_scikit_learn_on_frames_averaged_over_clips(toy):
    values, table = toy
    found = Probes(neighbours=3, regularisation=0.5, max_frames=20000).predict(lambda _: values, table, CLASSES, TRAININGS)
    found = found.set_index(["probe", "clip"])
    assert len(found) == 18
    for fold, part in enumerate(PARTS):
        training = table["clip"].isin(part["training"] | part["inner"]).to_numpy()
        mean, spread = values[training].mean(0), values[training].std(0)
        model = LogisticRegression(C=2.0, max_iter=1000).fit((values[training] - mean) / spread, table["label"][training])
        unit = values / np.linalg.norm(values, axis=1, keepdims=True)
        for clip in part["held_out"]:
            own = (table["clip"] == clip).to_numpy()
            chances = dict(zip(model.classes_, model.predict_proba((values[own] - mean) / spread).mean(0), strict=True))
            votes = dict.fromkeys(CLASSES, 0.0)
            for frame in unit[own]:
                nearest = np.flatnonzero(training)[np.argsort(-(unit[training] @ frame))[:3]]
                for place in nearest:
                    votes[table["label"][place]] += 1 / 3 / own.sum()
            for name in CLASSES:
                assert found.loc[("linear", clip), f"p_{name}"] == pytest.approx(chances[name], abs=1e-4)
                assert found.loc[("knn", clip), f"p_{name}"] == pytest.approx(votes[name], abs=1e-5)
            line = found.loc[("knn", clip)]
            assert (line["patient"], line["label"], line["fold"]) == (clip, table.loc[own, "label"].iloc[0], fold)


def test_fewer_training_frames_than_neighbours_all_vote(toy):
    values, table = toy
    found = Probes(neighbours=1000, regularisation=1.0, max_frames=100).predict(lambda _: values, table, CLASSES, TRAININGS[1:])
    found = found.query("probe == 'knn'")
    shares = table[table["clip"].isin(PARTS[1]["training"])]["label"].value_counts(normalize=True)
    for name in CLASSES:
        assert found[f"p_{name}"].to_numpy() == pytest.approx(shares[name], abs=1e-6)


@pytest.mark.parametrize("max_frames, each", [(1, 1), (11, 1), (12, 2), (14, 2)])
def test_of_too_many_training_frames_each_clip_gives_equally_many_evenly_spread(toy, max_frames, each):
    """A loop removes the others. Six clips train, so that 12 to 17 frames are two of each: its first and its last."""
    values, table = toy
    learning, kept = PARTS[0]["training"] | PARTS[0]["inner"], []
    for clip, rows in table.groupby("clip").groups.items():
        kept += [rows[0], rows[-1]][:each] if clip in learning else list(rows)
    assert len(kept) < len(table)
    probes = [Probes(neighbours=3, regularisation=1.0, max_frames=most) for most in (max_frames, 1000)]
    found = probes[0].predict(lambda _: values, table, CLASSES, TRAININGS[:1])
    expected = probes[1].predict(lambda _: values[kept], table.iloc[kept].reset_index(drop=True), CLASSES, TRAININGS[:1])
    pd.testing.assert_frame_equal(found, expected)


def test_features_are_of_the_frames_as_they_are_with_running_statistics(single_precision):
    """The same frame gives the same features whatever stands beside it, and nothing of the network changes."""
    backbone = Backbone("resnet18")
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    views = Views([0.2, 1.0], [0.5, 2.0], 0.5, 0.4, 0.4, 0.4, 0.2)
    frames = torch.randint(0, 256, (260, 1, 32, 32), dtype=torch.uint8)
    found = features(backbone, frames, views)
    assert found.shape == (260, 512) and found.dtype == np.float32
    alone = backbone.eval()((frames[257:258].float() / 255 - 0.4) / 0.2).detach().numpy()
    assert np.linalg.norm(found[257] - alone) < 1e-4 * np.linalg.norm(alone)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("count", [7, 300])
def test_statistics_are_those_of_the_training_frames(count):
    """Of the first layer against the mean and variance of its inputs, of all frames together, which get brighter from first to
    last; momentum and weights stay, and it draws nothing."""
    backbone, views = Backbone("resnet18"), Views([0.2, 1.0], [0.5, 2.0], 0.5, 0.4, 0.4, 0.4, 0.2)
    frames = torch.randint(0, 56, (count, 1, 32, 32), dtype=torch.uint8)
    frames += torch.linspace(0, 200, count).to(torch.uint8)[:, None, None, None]
    weights = {name: value.clone() for name, value in backbone.named_parameters()}
    state = torch.get_rng_state()
    set_statistics(backbone, frames, views)
    assert torch.equal(torch.get_rng_state(), state) and not backbone.training
    first = backbone.network.bn1
    inputs = backbone.network.conv1(((frames.float() / 255 - 0.4) / 0.2).expand(-1, 3, -1, -1))
    mean, variance = inputs.mean((0, 2, 3)), inputs.var((0, 2, 3))
    assert torch.allclose(first.running_mean, mean, atol=0.02) and torch.allclose(first.running_var, variance, rtol=0.05)
    assert first.momentum == 0.1
    assert all(torch.equal(value, weights[name]) for name, value in backbone.named_parameters())


def test_random_features_never_see_held_out_frames(toy):
    """Other pictures in a held-out fold leave the features of all other frames in that fold as they are."""
    _, table = toy
    backbone, views = Backbone("resnet18"), Views([0.2, 1.0], [0.5, 2.0], 0.5, 0.4, 0.4, 0.4, 0.2)
    grey = torch.randint(0, 256, (len(table), 1, 32, 32), dtype=torch.uint8)
    held_out = table["clip"].isin(PARTS[0]["held_out"]).to_numpy()
    changed = grey.clone()
    changed[held_out] = 255 - changed[held_out]
    first, second = (FrozenFeatures(backbone, TaskFrames(frames, None, table), views, calibrate=True)(TRAININGS[0])
                     for frames in (grey, changed))
    assert np.array_equal(first[~held_out], second[~held_out]) and not np.allclose(first[held_out], second[held_out])
    plain = FrozenFeatures(backbone, TaskFrames(grey, None, table), views, calibrate=False)
    assert np.array_equal(plain(TRAININGS[0]), plain(TRAININGS[1]))
    both = FrozenFeatures(backbone, TaskFrames(grey, None, table), views, calibrate=True)
    found, of_table = both.held_out(TRAININGS)
    assert of_table.equals(table[table["clip"].isin(set().union(*(training.parts["held_out"] for training in TRAININGS)))])
    for training in TRAININGS:
        rows = table["clip"].isin(training.parts["held_out"]).to_numpy()
        assert np.array_equal(found[rows], both(training)[rows])
