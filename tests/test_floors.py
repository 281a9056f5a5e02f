"""Floors: what each of them sees, that they stay in the folds, and the comparison of a score with the highest one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_frame_store

from stages.lib.clips.tasks import Task
from stages.lib.evaluation import floors, intervals, scores
from stages.lib.evaluation.cross_validation import list_trainings
from stages.lib.evaluation.preparation import TaskFrames, load_frames, prepare
from stages.lib.training.views import Views

CLASSES = ["ill", "well"]
VIEWS = Views([0.8, 1.0], [0.75, 1.333], 0.5, 0.0, 0.0, 0.5, 0.25)


def lungs(hint: str, classes: list[str] = CLASSES) -> tuple:
    """24 patients whose classes differ in one thing only: `rate`, `outline`, `grey` or nothing. Clips, frames, trainings."""
    rng = np.random.default_rng(3)
    clips = [{"clip": f"{patient}.mp4", "patient": f"p{patient}", "label": classes[patient % 2], "frames_kept": 3,
              "fps": 50.0 if hint == "rate" and patient % 2 else 25.0} for patient in range(24)]
    write_frame_store(Path("data/frames/lungs"), clips)
    label = (np.arange(72) // 3) % 2
    frames = rng.integers(40, 60, (72, 32, 32)) + rng.integers(0, 120, (72, 8, 8)).repeat(4, 1).repeat(4, 2)
    if hint == "grey":
        frames[label == 1] += 70
    if hint == "outline":
        frames[label == 1, :, :8] = 0
        frames[label == 0, :, -8:] = 0
    np.save("data/frames/lungs/frames.npy", frames.astype(np.uint8))
    task = Task("lungs", classes)
    found = prepare("finetune", task, {"clips": 0.1, "stills": 0.1}, 3, [0, 1])
    return found, load_frames(task, found.used), list_trainings(found, [0], 1.0, 0.0)


@pytest.mark.parametrize(
    ("hint", "floor"), [("rate", "floor_acquisition"), ("outline", "floor_outline"), ("grey", "floor_histogram")])
def test_each_floor_sees_its_own_part(workspace, hint, floor):
    found = floors.predict(*lungs(hint), "shufflenet_v2_x0_5", VIEWS, 0)
    values = {name: scores.balanced_accuracies(part, CLASSES).mean() for name, part in found.groupby("floor")}
    assert values[floor] > 0.95
    for name in {"floor_acquisition", "floor_outline", "floor_histogram"} - {floor}:
        assert values[name] < 0.8 or (hint, name) == ("outline", "floor_histogram")     # a black border is in both


def test_every_clip_is_predicted_once_per_floor_and_division_in_its_fold(workspace):
    clips, frames, trainings = lungs("rate")
    found = floors.predict(clips, frames, trainings, "shufflenet_v2_x0_5", VIEWS, 0)
    assert set(found["floor"]) == set(floors.NAMES) and len(found) == len(floors.NAMES) * 2 * 24
    assert not found.duplicated(["floor", "division", "clip"]).any()
    for division in ("0", "1"):
        own = found[found["division"] == division]
        fold = clips.in_folds(division).set_index("clip")["fold"]
        assert (own["fold"].to_numpy() == fold[own["clip"]].to_numpy()).all()
    assert found[["p_ill", "p_well"]].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)


def test_the_names_of_the_classes_change_no_prediction(workspace):
    """Labels that look like numbers are texts, too."""
    runs = [lungs("rate", classes) for classes in (CLASSES, ["0", "1"])]
    first, second = (floors.predict(*run, "shufflenet_v2_x0_5", VIEWS, 0) for run in runs)
    assert (first[["p_ill", "p_well"]].to_numpy() == second[["p_0", "p_1"]].to_numpy()).all()


def test_what_is_held_out_changes_nothing_else(workspace):
    """Other pictures and frame rates of held-out clips leave the fold's other predictions as they are, and so do other labels.

    The calibrated random network is the exception: its batch norm sees all pictures, without labels.
    """
    clips, frames, trainings = lungs("none")
    first = floors.predict(clips, frames, trainings[:1], "shufflenet_v2_x0_5", VIEWS, 0)
    one, *rest = sorted(trainings[0].parts["held_out"])
    grey = frames.grey.clone()
    changed = frames.table["clip"].isin(rest).to_numpy(copy=True)
    grey[torch.from_numpy(changed)] = 255 - grey[torch.from_numpy(changed)]
    clips.table.loc[clips.table["clip"].isin(rest), "fps"] = 99.0
    second = floors.predict(clips, frames._replace(grey=grey), trainings[:1], "shufflenet_v2_x0_5", VIEWS, 0)
    columns = ["floor", "p_ill", "p_well"]
    kept = (first["clip"] == one).to_numpy() & (first["floor"] != "random_features").to_numpy()
    pd.testing.assert_frame_equal(first.loc[kept, columns], second.loc[kept, columns])
    assert not first[columns].equals(second[columns])


def test_labels_of_held_out_clips_change_no_prediction(workspace):
    clips, frames, trainings = lungs("grey")
    first = floors.predict(clips, frames, trainings[:1], "shufflenet_v2_x0_5", VIEWS, 0)
    held_out = clips.table["clip"].isin(trainings[0].parts["held_out"])
    clips.table.loc[held_out, "label"] = clips.table["label"][held_out].map({"ill": "well", "well": "ill"})
    second = floors.predict(clips, frames, trainings[:1], "shufflenet_v2_x0_5", VIEWS, 0)
    pd.testing.assert_frame_equal(first.drop(columns="label"), second.drop(columns="label"))
    assert (first["label"] != second["label"]).all()


def test_the_acquisition_floor_is_the_mean_of_its_parts(workspace):
    clips, frames, trainings = lungs("rate")
    found = floors.predict(clips, frames, trainings, "shufflenet_v2_x0_5", VIEWS, 0)
    columns = ["p_ill", "p_well"]
    parts = np.mean([found.loc[found["floor"] == part, columns] for part in floors.PARTS], axis=0)
    assert found.loc[found["floor"] == "floor_acquisition", columns].to_numpy() == pytest.approx(parts, abs=2e-6)


def test_many_weak_columns_do_not_hide_a_strong_one(workspace, monkeypatch):
    """As parts of their own, forty columns of noise leave the frame rate its say; in one forest with it they do not."""
    clips, frames, trainings = lungs("rate")
    noise = [f"noise_{number}" for number in range(40)]
    values = np.random.default_rng(0).normal(size=(len(clips.table), len(noise)))
    clips = clips._replace(table=clips.table.join(pd.DataFrame(values, clips.table.index, noise)))
    monkeypatch.setattr(floors, "NAMES", ["floor_acquisition"])
    reached = []
    for parts in ({"floor_frame_rate": ["fps"], "floor_noise": noise}, {"floor_together": ["fps", *noise]}):
        monkeypatch.setattr(floors, "PARTS", parts)
        found = floors.predict(clips, frames, trainings, "shufflenet_v2_x0_5", VIEWS, 0)
        reached.append(scores.balanced_accuracies(found, CLASSES).mean())
    assert reached[0] > 0.95 and reached[0] > reached[1] + 0.05


def test_outlines_and_histograms_against_loops():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (5, 1, 64, 64), dtype=np.uint8)
    grey[:, :, :20] = rng.integers(0, 7, (5, 1, 20, 64))
    frames = TaskFrames(torch.from_numpy(grey), torch.zeros(5), pd.DataFrame({"clip": list("aabbb")}))
    found = floors.outlines(frames).reshape(5, 16, 16)
    for rows in (slice(0, 2), slice(2, 5)):
        lit = grey[rows, 0].max(0) > 6
        cells = [[lit[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean() for j in range(16)] for i in range(16)]
        assert np.allclose(found[rows], cells)
    for image, line in zip(grey[:, 0], floors.histograms(frames), strict=True):
        assert line == pytest.approx(np.histogram(image, bins=32, range=(0, 256))[0] / 64**2)


def table(right, name=None):
    """Clip-level predictions of 30 patients, of whom those in `right` are predicted rightly."""
    rows = [{"division": 0, "clip": str(number), "patient": str(number), "group": str(number), "fold": 0,
             "label": CLASSES[number % 2]} for number in range(30)]
    found = pd.DataFrame(rows)
    hit = found.index.isin(list(right))
    for label in CLASSES:
        found[f"p_{label}"] = np.where((found["label"] == label) == hit, 0.9, 0.1)
    return found.assign(floor=name) if name else found.assign(seed=0)


@pytest.mark.parametrize(("right", "above"), [(range(30), True), (range(23), False)])
def test_the_score_is_compared_with_the_highest_floor(right, above):
    both = pd.concat([table(range(12), "floor_outline"), table(range(20), "floor_acquisition")])
    found = floors.summary(both, table(right), CLASSES, 500, 0.95, 0)
    assert found["highest"] == "floor_acquisition"
    assert found["values"] == pytest.approx({"floor_outline": 12 / 30, "floor_acquisition": 20 / 30})
    assert found["difference"] == pytest.approx(scores.balanced_accuracies(table(right), CLASSES)[0] - 20 / 30)
    assert found["above"] == above == (found["low"] > 0) and found["low"] <= found["difference"] <= found["high"]
    pair = [scores.outcome_counts(one, CLASSES) for one in (table(range(20), "floor_acquisition"), table(right))]
    assert found["detectable"] == intervals.detectable_difference(*pair, 500, 0.95, 0)
