"""Batches of an epoch: which clips, which frames, which pixels."""

import numpy as np
import pytest
import torch
from conftest import write_us4

from stages.lib import store
from stages.lib.clip_set import ClipSet

CLIPS = [(3, "liver_f0", "train"), (1, "", "train"), (5, "lung_normal", "held_out"), (2, "lung_normal", "train"),
         (4, "liver_f0", "train"), (2, "", "train")]


@pytest.fixture
def data(workspace):
    write_us4(workspace / "us4", CLIPS)
    return store.read("us4")


def last_frame(clips, draw):
    return clips.count[:, None] - 1


def test_an_epoch_visits_every_training_clip_once(data, draw):
    batches = list(ClipSet(data, "train", torch.device("cpu")).batches(2, last_frame, draw))
    assert [len(frames) for frames, _ in batches] == [2, 2, 1]
    assert sorted(torch.cat([clips.index for _, clips in batches]).tolist()) == [0, 1, 2, 3, 4]


def test_asked_for_steps_are_full_and_even(data, draw):
    batches = list(ClipSet(data, "train", torch.device("cpu")).batches(2, last_frame, draw, steps=5))
    assert [len(frames) for frames, _ in batches] == [2] * 5
    assert np.bincount(torch.cat([clips.index for _, clips in batches])).tolist() == [2] * 5


def test_the_picked_frames_are_those_of_the_store(data, draw):
    """Pixels against the store's own table of frames, for a pick that differs from clip to clip."""
    train = ClipSet(data, "train", torch.device("cpu"))

    def pick(clips, draw):
        return torch.stack([clips.count // 2, clips.count - 1], 1)

    for frames, clips in train.batches(3, pick, draw):
        for pair, index in zip(frames, clips.index.tolist(), strict=True):
            name, count = train.table["clip"][index], train.table["frames"][index]
            rows = data.frame_table[data.frame_table["clip"] == name].set_index("frame")["row"]
            for ours, number in zip(pair, [count // 2, count - 1], strict=True):
                assert torch.equal(ours[0], torch.tensor(data.frames[rows[number]]).float() / 255)


def test_labels_are_numbered_alike_in_both_splits(data):
    train, held_out = (ClipSet(data, split, torch.device("cpu")) for split in ("train", "held_out"))
    assert train.classes == held_out.classes == ["liver_f0", "lung_normal"]
    assert train.clips.label.tolist() == [0, -1, 1, 0, -1] and held_out.clips.label.tolist() == [1]


def test_a_split_without_clips_is_empty(data):
    assert len(ClipSet(data, "none", torch.device("cpu"))) == 0
