"""Batches of an epoch: which clips, which frames, which pixels."""

import itertools

import numpy as np
import pytest
import torch
from conftest import write_us4
from scipy.stats import chisquare

from stages.lib.clips import store
from stages.lib.pretraining.clip_set import ClipSet, choose, choose_repeatedly

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
    assert [len(frames) for frames, _ in batches] == [2, 3]
    assert sorted(torch.cat([clips.index for _, clips in batches]).tolist()) == [0, 1, 3, 4, 5]       # rows of clips.csv


def test_asked_for_steps_are_full_and_even(data, draw):
    batches = list(ClipSet(data, "train", torch.device("cpu")).batches(2, last_frame, draw, steps=5))
    assert [len(frames) for frames, _ in batches] == [2] * 5
    assert np.bincount(torch.cat([clips.index for _, clips in batches])).tolist() == [2, 2, 0, 2, 2, 2]


@pytest.mark.parametrize("batch_size", [2, 3, 4, 5])
def test_no_batch_of_many_passes_has_a_clip_twice(data, draw, batch_size):
    """Five clips, batches that mostly lie in two passes; every clip still comes as often as any other, give or take one."""
    train = ClipSet(data, "train", torch.device("cpu"))
    batches = [clips.index.tolist() for _, clips in train.batches(batch_size, last_frame, draw, steps=40)]
    assert len(batches) == 40 and all(len(batch) == len(set(batch)) == batch_size for batch in batches)
    counts = np.bincount(sum(batches, []))[[0, 1, 3, 4, 5]]
    assert counts.max() - counts.min() <= 1


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


def test_the_numbers_of_the_picked_frames_are_those_of_the_frame_table(data, draw):
    """Of a table thinned irregularly, so that a number is not its place; −1 beyond the last when picking."""
    data.frame_table["frame"] = data.frame_table["frame"] ** 2 + 7
    for split in ("train", "held_out"):
        clip_set, seen = ClipSet(data, split, torch.device("cpu")), []

        def pick(clips, draw, seen=seen):
            seen.append(clips)
            return torch.stack([clips.count - 1, clips.count // 2, torch.zeros_like(clips.count)], 1)

        for _, clips in clip_set.batches(3, pick, draw):
            for picked, whole, index in zip(clips.number.tolist(), seen[-1].number.tolist(), clips.index.tolist(), strict=True):
                name = clip_set.table["clip"][index]
                own = data.frame_table.loc[data.frame_table["clip"] == name, "frame"].tolist()
                assert picked == [own[-1], own[len(own) // 2], own[0]]
                assert whole == own + [-1] * (len(whole) - len(own))


@pytest.mark.parametrize("clips", range(2, 13))
def test_a_lone_last_clip_joins_the_batch_before(workspace, draw, clips):
    write_us4(workspace / "us4", [(2, "", "train")] * clips)
    train = ClipSet(store.read("us4"), "train", torch.device("cpu"))
    for size in range(2, 7):
        expected, left = [], clips
        while left:
            expected.append(left if left <= size + 1 and left != size else size)
            left -= expected[-1]
        batches = list(train.batches(size, last_frame, draw))
        assert [len(frames) for frames, _ in batches] == expected and min(expected) > 1
        assert sorted(torch.cat([chosen.index for _, chosen in batches]).tolist()) == list(range(clips))
        assert train.steps(size) == len(batches)


LABELLED = [("a", 8), ("b", 5), ("c", 1), ("", 6)]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5, 0.62, 0.9, 1.0])
def test_the_rounded_share_of_each_class_keeps_its_labels(workspace, fraction):
    """Clips of the other split, between those of this one, are not touched."""
    clips = [(1, label, split) for label, number in LABELLED for _ in range(number) for split in ("held_out", "train")]
    write_us4(workspace / "us4", clips)
    data = store.read("us4")
    train = ClipSet(data, "train", torch.device("cpu"))
    torch.manual_seed(0)
    hidden = train.without_labels(fraction).numpy()
    assert hidden.shape == (len(clips),)
    table = data.clip_table
    for label, number in LABELLED:
        of_class = hidden[(table["split"] == "train") & (table["pooled_class"] == label)]
        assert of_class.sum() == (number - round(fraction * number) if label else 0)
    assert not hidden[table["split"] == "held_out"].any()
    assert hidden.sum() == {0.0: 14, 1.0: 0}.get(fraction, hidden.sum())


def test_every_clip_of_a_class_is_as_likely_to_keep_its_label(workspace):
    write_us4(workspace / "us4", [(1, "a", "train")] * 6)
    train = ClipSet(store.read("us4"), "train", torch.device("cpu"))
    torch.manual_seed(0)
    drawn = torch.stack([train.without_labels(0.5) for _ in range(4000)]).int()
    patterns, counts = np.unique(drawn.numpy(), axis=0, return_counts=True)
    assert len(patterns) == 20 and chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_ordered_choice_of_candidates_as_often(draw, number):
    candidates = torch.tensor([[False, True, True, False, True, True]])
    places, found = choose(candidates.expand(20000, -1), number, draw)
    assert found.all()
    choices, counts = np.unique(places.numpy(), axis=0, return_counts=True)
    assert [tuple(choice) for choice in choices.tolist()] == list(itertools.permutations([1, 2, 4, 5], number))
    assert chisquare(counts).pvalue > 1e-3


def test_repeated_choices_are_independent_and_even(draw):
    candidates = torch.tensor([[False, True, True, False, True]])
    places, found = choose_repeatedly(candidates.expand(20000, -1), 2, draw)
    assert found.all()
    choices, counts = np.unique(places.numpy(), axis=0, return_counts=True)
    assert [tuple(choice) for choice in choices.tolist()] == list(itertools.product([1, 2, 4], repeat=2))
    assert chisquare(counts).pvalue > 1e-3


def test_repeated_choices_without_candidates_are_marked(draw):
    rows = torch.tensor(list(itertools.product([False, True], repeat=5)))
    places, found = choose_repeatedly(rows, 7, draw)
    assert ((places >= 0) & (places < 5)).all() and (found == rows.any(1, keepdim=True)).all()
    assert rows.gather(1, places)[found].all()


@pytest.mark.parametrize("number", [1, 3, 6, 9])
def test_too_few_candidates_are_all_found_and_the_rest_is_not(draw, number):
    """Also where more places are asked for than the table is wide."""
    rows = torch.tensor(list(itertools.product([False, True], repeat=6)))
    places, found = choose(rows, number, draw)
    assert places.shape == found.shape == (64, number)
    for row, where, there in zip(rows.tolist(), places.tolist(), found.tolist(), strict=True):
        assert sum(there) == min(number, sum(row)) and len(set(where)) == number
        assert all(row[place] for place, real in zip(where, there, strict=True) if real)
