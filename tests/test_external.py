"""Outside tests: whose clips, which classes, the leak guard between the sources, and what is written and scored."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_frame_store
from test_finetune import ARCH, SETTINGS

from stages import finetune
from stages.lib.clips import store
from stages.lib.clips.tasks import read_task
from stages.lib.evaluation import floors
from stages.lib.networks import checkpoint
from stages.lib.networks.backbone import Backbone
from stages.lib.params import UserError
from stages.lib.report.results import outside_tests
from stages.tools.trained_network import restore_classifier

BLOCK = {"classes": ["ill", "odd", "well"], "external": [
    {"source": "clinic", "target": "finding", "classes": {"ill": ["yes"], "well": ["no"]}}]}
RUN = SETTINGS | {"folds": 2, "epochs": 1, "seeds": [0, 1], "tasks": {"toy": BLOCK}}


@pytest.fixture
def sources(workspace, monkeypatch):
    """The task's 12 patients, and a clinic with 8: one of its clips is a copy of the task's first one. Floors of few trees."""
    monkeypatch.setattr(floors, "TREES", 3)
    clips = [{"clip": f"{patient}.mp4", "patient": f"p{patient}", "label": BLOCK["classes"][patient % 3]}
             for patient in range(12)]
    write_frame_store(workspace / "data/frames/toy", clips)
    clinic = [{"clip": f"c{patient}.mp4", "patient": f"q{patient}"} for patient in range(8)]
    write_frame_store(workspace / "data/frames/clinic", clinic, seed=5)
    for name, seed in (("toy", 1), ("clinic", 2)):      # scenes that no two clips share
        count = 4 * len(clips if name == "toy" else clinic)
        scenes = np.random.default_rng(seed).integers(0, 256, (count // 4, 8, 8)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
        np.save(f"data/frames/{name}/frames.npy", scenes.astype(np.uint8))
    frames = np.load("data/frames/clinic/frames.npy")
    frames[12:16] = np.load("data/frames/toy/frames.npy")[:4]
    np.save("data/frames/clinic/frames.npy", frames)
    table = pd.read_csv("data/frames/clinic/clips.csv", dtype=str, keep_default_na=False)
    table["finding"] = ["yes", "no", "yes", "no", "yes", "no", "unclear", ""]
    table.to_csv("data/frames/clinic/clips.csv", index=False)
    torch.manual_seed(1)
    checkpoint.write(Backbone(ARCH).network.state_dict(), {"arch": ARCH, "mean": 0.5, "std": 0.25})
    return workspace


def written():
    return store.table("reports/external/toy/predictions.csv"), store.table("reports/external/toy/clips.csv")


def test_the_clips_of_the_other_source_are_predicted_once_by_each_seeds_network(sources):
    finetune.main(**RUN)
    predictions, clips = written()
    left_out = clips.set_index("clip")["left_out"]
    assert left_out["c3.mp4"] == "looks like a clip of the task" and left_out["c7.mp4"].startswith("finding missing")
    assert clips.set_index("clip")["copy_of"]["c3.mp4"] == "toy/0.mp4 (distance 0.00)"
    assert sorted(left_out[left_out == ""].index) == [f"c{number}.mp4" for number in (0, 1, 2, 4, 5)]
    assert set(predictions["test"]) == {"toy_on_clinic_finding"}
    for seed in (0, 1):
        own = predictions[predictions["seed"] == seed]
        assert own.groupby("clip").size().to_dict() == {f"c{number}.mp4": 4 for number in (0, 1, 2, 4, 5)}
    assert (predictions["p_odd"] == 0).all()
    assert predictions[["p_ill", "p_well"]].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)


def test_the_network_that_is_tested_is_the_one_that_is_kept(sources):
    """The first seed's predictions against those of models/toy.safetensors; no outside test changes the network."""
    finetune.main(**RUN)
    network, facts = restore_classifier(checkpoint.finetuned("toy"))
    frames = torch.from_numpy(np.load("data/frames/clinic/frames.npy")[:4, None]).float() / 255
    with torch.no_grad():
        logits = network((frames - facts["mean"]) / facts["std"])[:, [0, 2]]
    predictions = written()[0].query("seed == 0 and clip == 'c0.mp4'")
    assert predictions["p_ill"].to_numpy() == pytest.approx(logits.softmax(1)[:, 0].numpy(), abs=2e-3)
    weights = Path("models/toy.safetensors").read_bytes()
    finetune.main(**RUN | {"tasks": {"toy": BLOCK | {"external": []}}})
    assert Path("models/toy.safetensors").read_bytes() == weights and written()[0].empty


def test_the_scores_are_those_of_the_clips_and_the_mean_over_the_seeds(sources):
    finetune.main(**RUN)
    (found,) = outside_tests(read_task("toy", RUN["tasks"]), 0.95)
    predictions, _ = written()
    values = []
    for seed in (0, 1):
        clips = predictions[predictions["seed"] == seed].groupby("clip").agg({"p_ill": "mean", "label": "first"})
        right = (clips["p_ill"] > 0.5) == (clips["label"] == "ill")
        values.append(right.groupby(clips["label"]).mean().mean())
    assert found["metrics"]["balanced_accuracy"] == pytest.approx(np.mean(values), abs=1e-4)
    assert (found["name"], found["classes"]) == ("toy_on_clinic_finding", ["ill", "well"])
    assert found["metrics"]["clips"] == 5 and found["confusion"].sum() == 10 and len(found["left_out"]) == 3
    assert found["metrics"]["balanced_accuracy_low"] < found["metrics"]["balanced_accuracy"]


def test_frames_that_were_taken_in_another_way_are_refused(sources):
    store.write_facts("data/frames/clinic", frame_rate_hz=9.0, max_frames_per_clip=30, assumed_frame_rate_hz=25.0, size_px=32)
    with pytest.raises(UserError, match="hold frames that were taken differently"):
        finetune.main(**RUN)
    assert not Path("reports").exists()
