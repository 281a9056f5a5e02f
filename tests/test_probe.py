"""Measures on the held-out clips against loops from Wang & Isola 2020, and a held-out loss that leaves no trace."""

import copy
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_methods import METHODS, build, clip_sets

from stages.lib.pretraining import measures

LABELS = ["a", "b", "c"]
CLIPS = [(1 + number % 6, LABELS[number % 3], "train") for number in range(36)] + [(2, "", "train")] * 3
CLIPS += [(1 + number % 5, LABELS[number % 3], "held_out") for number in range(14)] + [(4, "", "held_out")]


@pytest.fixture
def sets(workspace):
    return clip_sets(workspace, CLIPS)


class NoisyViews:
    """A view is the frame and noise; without noise the frame itself."""

    def __init__(self, noise):
        self.noise, self.seen = noise, []

    def augment(self, frames, clips, draw, dim):
        self.seen.append(frames[0] + self.noise * torch.rand(frames[0].shape, generator=draw))
        return self.seen[-1][None]

    def normalise(self, frames):
        return (frames - 0.5) / 0.25


def stub(backbone=None, noise=0.0):
    """A model as far as the probe knows it; features are a fixed linear map of the frames, unless given."""
    linear = torch.randn(32 * 32, 6, generator=torch.Generator().manual_seed(1))
    model = SimpleNamespace(backbone=backbone or (lambda frames: frames.flatten(1) @ linear), views=NoisyViews(noise))
    model.augment = model.views.augment
    model.eval = lambda: model
    return model


def by_clip(clip_set, frames_of):
    """A backbone that knows each frame by its pixels and answers with the row that its clip was given."""
    spans = zip(clip_set.first.tolist(), clip_set.clips.count.tolist(), strict=True)
    stored = clip_set.frames.stored.numpy()
    known = {stored[row].tobytes(): feature for (first, count), feature in zip(spans, frames_of, strict=True)
             for row in range(first, first + count)}  # fmt: skip

    def backbone(views):
        pixels = ((views * 0.25 + 0.5) * 255).round().to(torch.uint8)
        return torch.tensor(np.array([known[frame.numpy().tobytes()] for frame in pixels]), dtype=torch.float32)

    return backbone


def test_alignment_and_uniformity_equal_the_loops(sets, draw):
    model = stub(noise=0.3)
    measured = measures.measures(model, *sets, draw)
    left, right = ([feature / feature.norm() for feature in model.backbone(model.views.normalise(view)).double()]
                   for view in model.views.seen)  # fmt: skip
    spans = zip(sets[1].first.tolist(), sets[1].clips.count.tolist(), strict=True)
    middle = [first + count // 2 for first, count in spans]
    noise = model.views.seen[0] - sets[1].frames[middle]
    assert len(left) == 15 and (noise > -1e-6).all() and (noise < 0.3 + 1e-6).all()    # a frame of each clip's own
    alignment = sum(float((one - other).norm()) ** 2 for one, other in zip(left, right, strict=True)) / 15
    pairs = [math.exp(-2 * float((left[i] - left[j]).norm()) ** 2) for i in range(15) for j in range(15) if i < j]
    assert measured["alignment"] == pytest.approx(alignment, rel=1e-4) and alignment > 1e-3
    assert measured["uniformity"] == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-4)


def test_equal_views_are_aligned_and_antipodes_give_minus_8(workspace, draw):
    """exp(−2 · 2²) of the only pair."""
    train, held_out = clip_sets(workspace, [(3, "", "train"), (3, "", "held_out"), (4, "", "held_out")])
    measured = measures.measures(stub(by_clip(held_out, [[0.0, 3.0], [0.0, -0.1]])), train, held_out, draw)
    assert measured["alignment"] == 0
    assert measured["uniformity"] == pytest.approx(-8, abs=1e-5)
    assert math.isnan(measured["knn_accuracy"])


def test_equal_features_give_uniformity_0(sets, draw):
    model = stub(lambda frames: torch.ones(len(frames), 4))
    assert measures.measures(model, *sets, draw)["uniformity"] == pytest.approx(0, abs=1e-6)


def test_separable_features_are_told_without_error_and_swapped_ones_never(sets):
    train, held_out = sets
    axes = torch.eye(4).tolist()  # of a, b, c and of clips without a label
    for shift, accuracy in ((0, 1.0), (1, 0.0)):
        features = [axes[number] for number in train.clips.label.tolist()]
        asked = [axes[(number + shift) % 3 if number >= 0 else 3] for number in held_out.clips.label.tolist()]
        known, other = by_clip(train, features), by_clip(held_out, asked)

        def either(frames, known=known, other=other):
            try:
                return known(frames)
            except KeyError:
                return other(frames)

        assert measures.knn_accuracy(stub(either), train, held_out) == accuracy


def test_knn_accuracy_equals_the_loop(sets):
    """Mean unit feature of four frames evenly spread over a clip; a vote each of the ten most alike of the labelled clips."""
    model, features = stub(), []
    for clip_set in sets:
        rows = []
        for first, count in zip(clip_set.first.tolist(), clip_set.clips.count.tolist(), strict=True):
            places = [first + round(third * (count - 1) / 3) for third in range(4)]
            frames = model.views.normalise(clip_set.frames[places])
            rows.append(F.normalize(model.backbone(frames).double(), dim=1).mean(0))
        features.append(torch.stack(rows))
    train, held_out = (F.normalize(part, dim=1) for part in features)
    known, correct = sets[0].clips.label.tolist(), []
    for feature, label in zip(held_out, sets[1].clips.label.tolist(), strict=True):
        order = [place for place in (train @ feature).argsort(descending=True).tolist() if known[place] >= 0][:10]
        votes = Counter(known[place] for place in order)
        correct += [min(votes, key=lambda number: (-votes[number], number)) == label] if label >= 0 else []
    assert len(correct) == 14 and 0 < sum(correct) < 14
    assert measures.knn_accuracy(model, *sets) == pytest.approx(sum(correct) / 14)
    assert all(torch.allclose(measures.clip_features(model, part).double(), own, atol=1e-5)
               for part, own in zip(sets, features, strict=True))  # fmt: skip


@pytest.mark.parametrize("unlabelled", ["train", "held_out"])
def test_no_labels_on_either_side_give_nan(workspace, unlabelled):
    clips = [(2, "" if split == unlabelled else "a", split) for split in ["train"] * 3 + ["held_out"] * 2]
    assert math.isnan(measures.knn_accuracy(stub(), *clip_sets(workspace, clips)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_give_nan(bad):
    known, labels = torch.rand(6, 3), torch.tensor([0, 0, 0, 1, 1, 1])
    broken = known.clone()
    broken[2, 1] = bad
    assert math.isnan(measures.neighbour_accuracy(known, broken, labels, labels))
    assert math.isnan(measures.neighbour_accuracy(broken, known, labels, labels))


@pytest.mark.parametrize("held_out", [0, 1])
def test_fewer_than_two_held_out_clips_give_nan(workspace, draw, held_out):
    sets = clip_sets(workspace, [(3, "a", "train")] * 4 + [(3, "a", "held_out")] * held_out)
    measured = measures.measures(stub(), *sets, draw)
    assert math.isnan(measured["alignment"]) and math.isnan(measured["uniformity"])
    assert measured["knn_accuracy"] == 1 if held_out else math.isnan(measured["knn_accuracy"])
    assert math.isnan(measures.held_out_loss(stub(), sets[1], 2, draw))


@pytest.mark.parametrize(("name", "counted"), [("contrastive", 1.0), ("classification", 2.0)])
@pytest.mark.parametrize("batch_size", [4, 7, 15, 64])
def test_the_held_out_loss_is_the_mean_over_clips_of_what_counts(sets, draw, name, counted, batch_size):
    """Labels must not choose the checkpoint: of a method with several terms the contrastive one counts."""
    model = stub()
    model.pick = lambda clips, draw: clips.count[:, None] - 1
    model.loss = lambda frames, clips, draw: (2 * clips.index.double().mean(), {name: clips.index.double().mean()})
    expected = counted * sum(sets[1].clips.index.tolist()) / len(sets[1])
    assert measures.held_out_loss(model, sets[1], batch_size, draw) == pytest.approx(expected)


@pytest.mark.parametrize("name", METHODS)
def test_the_held_out_loss_is_the_same_again_and_leaves_the_model_as_it_is(sets, name):
    model = build(name, *sets)
    model.progress = 0.6
    before = copy.deepcopy(model.state_dict()), {key: value.clone() for key, value in model.named_buffers()}
    losses = [measures.held_out_loss(model, sets[1], 4, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert losses[0] == losses[1] != losses[2] and math.isfinite(losses[0])
    after = model.state_dict()
    assert after.keys() == before[0].keys() and model.progress == 0.6
    for key, value in before[0].items():
        assert torch.equal(after[key], value) if isinstance(value, torch.Tensor) else repr(after[key]) == repr(value), key
    assert all(torch.equal(value, before[1][key]) for key, value in model.named_buffers())
