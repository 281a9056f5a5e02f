"""The positive control: its measure on features of known worth, and that a second call goes on where the first one stopped."""

import json

import numpy as np
import pytest
from benchmarks import positive_control as control

SMALL = {"train": 12, "held_out": 6, "labelled": 15}
LABELS = np.arange(60) % 3


def test_separable_features_are_told_and_noise_is_not():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(60, 20))
    told = control.predicted(noise + 10 * np.eye(20)[LABELS], LABELS) == LABELS
    assert told.all() and (control.predicted(noise, LABELS) == LABELS).mean() < 0.6


def test_balanced_accuracy_is_the_mean_recall():
    labels, right = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([[1, 1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 1.0]])
    assert control.balanced(right, labels).tolist() == pytest.approx([(3 / 4 + 1 / 2 + 1) / 3, 1 / 3])


def test_the_difference_is_paired_by_patient_and_averages_seeds():
    """Of each class the share of patients gained; without scatter the interval is a point."""
    ours, others = np.ones((2, 60)), np.zeros((2, 60))
    assert control.difference(ours, others, LABELS) == (1.0, 1.0, 1.0)
    assert control.difference(ours, ours, LABELS) == (0.0, 0.0, 0.0)
    ours[1] = 0                                             # one seed right, one wrong: every patient half
    assert control.difference(ours, others, LABELS) == (0.5, 0.5, 0.5)
    gained = np.zeros((1, 60))
    gained[0, :30] = 1
    mean, low, high = control.difference(gained, others[:1], LABELS)
    deviation = np.sqrt(sum(0.25 / 20 for _ in range(3))) / 3       # of the mean of three shares of 20 patients each
    assert mean == pytest.approx(0.5)
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_classes_take_turns_and_scanners_do_not_follow_them():
    frames, labels = control.phantoms(16, 0, {"labelled": 6})
    assert labels["labelled"].tolist() == [0, 1, 2, 0, 1, 2] and frames["labelled"].shape == (6, 4, 16, 16)
    again = control.clip_frames("labelled", 4, 16, 0)
    assert np.array_equal(again, frames["labelled"][4]) and not np.array_equal(again, frames["labelled"][1])


def test_a_second_call_goes_on(tmp_path, monkeypatch):
    calls = []

    def pretrained(method, seed, steps, folder, frames):
        calls.append((method, seed))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return np.random.default_rng(seed).normal(size=(len(frames["labelled"]), 8))

    monkeypatch.setattr(control, "pretrained_features", pretrained)
    with pytest.raises(KeyboardInterrupt):
        control.run(tmp_path, ["simclr", "ucl"], [0], 1, 16, SMALL)
    table = control.run(tmp_path, ["simclr", "ucl"], [0], 1, 16, SMALL)
    assert calls == [("simclr", 0), ("ucl", 0), ("ucl", 0)]
    assert sorted(table["method"]) == ["random", "simclr", "ucl"] and (table["seeds"] == 1).all()
    assert len(json.loads((tmp_path / "ucl_0.json").read_text())["right"]) == 15


@pytest.mark.slow
def test_a_short_control_finds_that_pretraining_learns(tmp_path, workspace):
    """IVPP, which learned most in the control, beats random weights beyond the interval, also in half of its steps."""
    counts = {"train": 150, "held_out": 30, "labelled": 270}
    table = control.run(tmp_path, ["ivpp"], [0], 80, 32, counts).set_index("method")
    assert table.loc["ivpp", "low"] > 0
