"""Probes of frozen features: against scikit-learn used by hand and a loop over neighbours."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stages.lib.evaluation.frozen_probes import Probes, features
from stages.lib.networks.backbone import Backbone
from stages.lib.training.views import Views

CLASSES = ["well", "ill", "odd"]
PARTS = [{"training": {"a0", "a1", "b0", "b1", "c0"}, "inner": {"c1"}, "held_out": {"a2", "b2", "c2"}},
         {"training": {"a2", "b2", "c2"}, "inner": set(), "held_out": {"a0", "a1", "b0", "b1", "c0", "c1"}}]


@pytest.fixture
def toy():
    """Features of 2 to 4 frames of three clips per class, and the table of the frames."""
    rng = np.random.default_rng(0)
    clips = [(f"{letter}{number}", CLASSES[place]) for place, letter in enumerate("abc") for number in range(3)]
    rows = [{"clip": clip, "patient": clip, "label": label, "fold": int(clip[1] != "2")}
            for clip, label in clips for _ in range(rng.integers(2, 5))]
    table = pd.DataFrame(rows)
    centres = rng.normal(size=(3, 6))
    return 3 + 2 * (centres[table["label"].map(CLASSES.index)] + rng.normal(size=(len(table), 6))), table


def test_probabilities_are_those_of_scikit_learn_on_frames_averaged_over_clips(toy):
    values, table = toy
    found = Probes(neighbours=3, regularisation=0.5).predict(values, table, CLASSES, PARTS).set_index(["probe", "clip"])
    assert len(found) == 18
    for part in PARTS:
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
            assert (line["patient"], line["label"], line["fold"]) == (clip, *table.loc[own, ["label", "fold"]].iloc[0])


def test_fewer_training_frames_than_neighbours_all_vote(toy):
    values, table = toy
    found = Probes(neighbours=1000, regularisation=1.0).predict(values, table, CLASSES, PARTS[1:]).query("probe == 'knn'")
    shares = table[table["clip"].isin(PARTS[1]["training"])]["label"].value_counts(normalize=True)
    for name in CLASSES:
        assert found[f"p_{name}"].to_numpy() == pytest.approx(shares[name], abs=1e-6)


def test_features_are_of_the_frames_as_they_are_with_running_statistics():
    """The same frame gives the same features whatever stands beside it, and nothing of the network changes."""
    backbone = Backbone("resnet18")
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    views = Views([0.2, 1.0], [0.5, 2.0], 0.5, 0.4, 0.4, 0.4, 0.2)
    frames = torch.randint(0, 256, (260, 1, 32, 32), dtype=torch.uint8)
    found = features(backbone, frames, views)
    assert found.shape == (260, 512) and found.dtype == np.float32
    alone = backbone.eval()((frames[257:258].float() / 255 - 0.4) / 0.2).detach().numpy()
    assert np.linalg.norm(found[257] - alone) < 0.02 * np.linalg.norm(alone)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
