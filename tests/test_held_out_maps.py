"""Maps and features that fine-tuning leaves behind: of which frames, by which network, and that they change nothing."""

from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_finetune import ARCH, SETTINGS, VIEWS, toy  # noqa: F401 (toy is a fixture)

from stages import finetune
from stages.lib.clips import store
from stages.lib.evaluation import fine_tuning
from stages.lib.evaluation.held_out_maps import HeldOutMaps
from stages.lib.networks import checkpoint, clip_features
from stages.lib.networks.backbone import Backbone
from stages.lib.networks.grad_cam import grad_cam
from stages.lib.training.views import Views


def maps():
    return np.load("reports/grad_cam/toy/maps.npy"), store.table("reports/grad_cam/toy/maps.csv")


def sections(fold):
    """The held-out clips of a fold by a loop over the predictions: clip → label, and a line of p_ill, p_well per frame."""
    found = {}
    for line in pd.read_csv("reports/predictions/toy.csv").query("seed == 0 and fold == @fold").to_dict("records"):
        entry = found.setdefault(line["clip"], {"label": line["label"], "frames": {}})
        entry["frames"][line["frame"]] = {"ill": line["p_ill"], "well": line["p_well"]}
    for entry in found.values():
        means = {name: np.mean([values[name] for values in entry["frames"].values()]) for name in ("ill", "well")}
        entry["said"] = max(means, key=means.get)
        entry["mean"] = means[entry["said"]]
        distance = {frame: abs(values[entry["said"]] - entry["mean"]) for frame, values in entry["frames"].items()}
        entry["nearest"] = [frame for frame in distance if distance[frame] < min(distance.values()) + 5e-6]
    return found


@pytest.mark.parametrize("per_fold", [1, 2])
def test_the_surest_right_and_wrong_clips_of_each_fold_are_chosen(toy, per_fold):  # noqa: F811
    finetune.main(**SETTINGS | {"seeds": [0, 1], "trainable": "head", "grad_cam": {"per_fold": per_fold}})
    heat, table = maps()
    assert heat.shape == (len(table), 32, 32) and heat.dtype == np.uint8 and set(table["seed"]) == {0}
    assert set(table["right"]) == {True, False}
    for fold in range(3):
        clips, own = sections(fold), table[table["fold"] == fold]
        for right in (True, False):
            order = sorted((name for name, clip in clips.items() if (clip["said"] == clip["label"]) == right),
                           key=lambda name: -clips[name]["mean"])  # fmt: skip
            chosen = own[own["right"] == right]
            surest = [clips[name]["mean"] for name in order[:per_fold]]
            assert chosen["clip_probability"].tolist() == pytest.approx(surest, abs=2e-6) and chosen["clip"].is_unique
            for line in chosen.itertuples():
                clip = clips[line.clip]
                assert (line.label, line.predicted) == (clip["label"], clip["said"]) and line.frame in clip["nearest"]
                assert line.clip_probability == pytest.approx(clip["mean"], abs=2e-6)
                assert line.probability == pytest.approx(clip["frames"][line.frame][line.predicted], abs=2e-6)


def test_of_two_clips_and_two_frames_that_are_alike_the_first_is_explained():
    table = pd.DataFrame({"clip": ["b", "b", "a", "a"], "patient": "", "frame": [7, 9, 7, 9], "label": "ill"})
    probabilities = pd.DataFrame({"ill": [0.5, 0.75] * 2, "well": [0.5, 0.25] * 2})
    chosen = HeldOutMaps(1).choose(table, probabilities)
    assert chosen[["clip", "frame", "clip_probability"]].values.tolist() == [["a", 7, 0.625]]


@pytest.mark.parametrize(("select", "epoch"), [("last_epoch", 2), ("inner_validation", 1)])
def test_a_map_is_that_of_the_network_that_predicted(toy, monkeypatch, single_precision, select, epoch):  # noqa: F811
    """Each fold is trained again here, and the network taken after the epoch whose predictions were written: the last one, or
    the second, of which the inner loss is said to be the lowest.
    """
    trained, real = [], fine_tuning.fit

    def kept(recipe, frames, rows, stream):
        trained.append((recipe, frames, rows, stream))
        return real(recipe, frames, rows, stream)

    losses = cycle([0.7, 0.5, 0.6])
    monkeypatch.setattr("stages.lib.evaluation.cross_validation.fit", kept)
    monkeypatch.setattr("stages.lib.evaluation.cross_validation.inner_loss", lambda *_: next(losses))
    finetune.main(**SETTINGS | {"select": select, "trainable": "all"})
    heat, table = maps()
    for fold, (recipe, frames, rows, stream) in enumerate(trained[:3]):
        *_, (network, _) = islice(real(recipe, frames, rows, stream), epoch + 1)
        network.eval()
        for number in table.index[table["fold"] == fold]:
            line = table.loc[number]
            row = frames.table.index[(frames.table["clip"] == line["clip"]) & (frames.table["frame"] == line["frame"])]
            seen = Views(**VIEWS).normalise(frames.grey[row].float() / 255)
            said = network(seen).softmax(1)[0, ["ill", "well"].index(line["predicted"])].item()
            assert said == pytest.approx(line["probability"], abs=1e-5)
            wanted = torch.tensor([["ill", "well"].index(line["predicted"])])
            expected = grad_cam(network, network.backbone.last_block(), seen, wanted)[0]
            expected = 255 * expected / expected.max() if expected.max() else expected
            assert np.abs(heat[number] - expected.numpy()).max() < 1.01
    assert heat.max() == 255


def test_maps_change_no_prediction_and_no_network(toy):  # noqa: F811
    names = ["reports/predictions/toy.csv", "reports/finetune/toy.csv", "reports/probes/toy.csv", "models/toy.safetensors"]
    files = []
    for per_fold in (0, 2):
        finetune.main(**SETTINGS | {"epochs": 1, "trainable": "all", "grad_cam": {"per_fold": per_fold}})
        files.append([Path(name).read_bytes() for name in names])
        assert len(maps()[0]) == len(maps()[1]) > 0 if per_fold else maps()[0].shape == (0, 32, 32) and maps()[1].empty
    assert files[0] == files[1]


def test_a_network_without_feature_maps_gets_none_and_one_sentence(toy, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(Backbone, "last_block", lambda self: self.network.fc)      # it gives vectors
    finetune.main(**SETTINGS | {"epochs": 1, "trainable": "head"})
    assert maps()[0].shape == (0, 32, 32) and maps()[1].empty
    assert capsys.readouterr().out.count("Grad-CAM needs feature maps") == 1


def test_the_features_are_means_over_the_frames_of_a_clip(toy, single_precision):  # noqa: F811
    """With weights that make something of each frame: those of a fresh network give almost nothing."""
    weights = {name: 2.5 * value if name.endswith(".weight") and value.dim() > 1 else value
               for name, value in checkpoint.weights().items()}  # fmt: skip
    checkpoint.write(weights, checkpoint.facts())
    finetune.main(**SETTINGS | {"epochs": 1})
    features, clips = clip_features.read("reports/features/toy")
    folds = store.table("data/folds/toy.csv").query("left_out == ''").set_index("clip")
    assert sorted(clips["clip"]) == sorted(folds.index) and features.dtype == np.float32
    backbone = Backbone(ARCH).eval()
    backbone.network.load_state_dict(checkpoint.weights())
    data = store.read("data/frames/toy")
    for line, feature in zip(clips.itertuples(), features, strict=True):
        assert (line.patient, line.label) == (folds["patient"][line.clip], folds["label"][line.clip])
        found, rows = [], data.frame_table.loc[data.frame_table["clip"] == line.clip, "row"]
        for row in rows:
            with torch.no_grad():
                found.append(backbone((torch.tensor(data.frames[row][None, None]) / 255 - 0.5) / 0.25)[0].numpy())
        expected, spread = sum(found) / len(found), np.ptp(found, axis=0).max()
        assert np.abs(feature - expected).max() < 1e-3 * spread
