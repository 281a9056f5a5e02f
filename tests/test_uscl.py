"""USCL's sample pair generation and its loss against their definition in METHODS (Chen et al. 2021)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import write_us4
from scipy.stats import beta, chisquare, kstest
from test_losses import nt_xent_loop
from test_methods import build, clip_sets

from stages.lib.clips import store
from stages.lib.pretraining.clip_set import ClipSet


@pytest.fixture
def train(workspace):
    write_us4(workspace / "us4", [(1, "a", "train"), (2, "", "train"), (3, "b", "train"), (5, "a", "train")])
    return ClipSet(store.read("us4"), "train", torch.device("cpu"))


def test_three_distinct_frames_every_ordered_triple_as_often(train, draw):
    model = build("uscl", train)
    clips = train.clips.take(torch.full((12000,), 3))       # the clip of 5 frames
    picked = model.pick(clips, draw).numpy()
    triples, counts = np.unique(picked, axis=0, return_counts=True)
    assert len(triples) == 5 * 4 * 3 and all(len(set(triple)) == 3 for triple in triples)
    assert chisquare(counts).pvalue > 1e-3


def test_short_clips_fall_back_as_specified(train, draw):
    """Two frames: the two augmented frames are the views. One frame: both views are of it."""
    model = build("uscl", train)
    clips = train.clips.take(torch.arange(2))
    for _ in range(40):
        one, two = model.pick(clips, draw)
        assert one.tolist() == [0, 0, 0] and {int(two[0]), int(two[2])} == {0, 1}
        assert torch.equal(model.mixing(clips, draw).flatten(), torch.ones(2))


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_mixing_is_beta_distributed(train, draw, alpha):
    model = build("uscl", train, mixing_alpha=alpha)
    clips = train.clips.take(torch.full((5000,), 2))
    drawn = model.mixing(clips, draw).flatten().numpy()
    assert kstest(drawn, beta(alpha, alpha).cdf).pvalue > 1e-3


def test_both_views_share_the_anchor_and_one_lambda(train, draw, monkeypatch):
    """Without augmentation the pair solves view_i − view_j = λ (x1 − x3) and view_i = λ x1 + (1 − λ) x2."""
    model = build("uscl", train)
    monkeypatch.setattr(model, "augment", lambda frames, clips, draw: frames)
    clips = train.clips.take(torch.arange(2, 4))
    frames = torch.rand(2, 3, 1, 8, 8, generator=draw, dtype=torch.float64)
    seen = model.step_views(frames, clips, draw)
    left, right = (seen[side].grey for side in ("left", "right"))
    first, anchor, third = frames.unbind(1)
    mixing = ((left - right) / (first - third)).mean((1, 2, 3), keepdim=True)
    assert torch.allclose(left, mixing * first + (1 - mixing) * anchor, atol=1e-6)
    assert torch.allclose(right, mixing * third + (1 - mixing) * anchor, atol=1e-6)
    assert (mixing > 0).all() and (mixing < 1).all() and mixing[0] != mixing[1]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(("training", "pair"), [(True, ("left", "right")), (False, ("first", "third"))])
def test_the_loss_is_the_sum_of_its_terms(train, draw, labelled, training, pair):
    """Of mixed pairs in training, of two frames as they are in the held-out loss, which chooses the epoch."""
    model = build("uscl", train).double().train(training)
    for part in model.modules():
        part.momentum = 0.0                             # of batch norm: two passes with the same statistics
    label = train.clips.label if labelled else torch.full((4,), -1)
    clips = train.clips._replace(label=label)
    frames = torch.rand(4, 3, 1, 32, 32, generator=draw, dtype=torch.float64)
    state = draw.get_state()
    loss, terms = model.loss(frames, clips, draw)

    seen = model.step_views(frames, clips, draw.set_state(state))
    views = torch.cat([seen[role].grey for role in pair])
    feature = model.backbone(model.views.normalise(views))
    left, right = F.normalize(model.projection_head(feature), dim=1).chunk(2)
    contrastive = nt_xent_loop(left.detach(), right.detach(), 0.5, [1.0] * 4)
    logits = model.classifier(feature)
    rows = [(logits[view * 4 + i], int(label[i])) for view in range(2) for i in range(4) if label[i] >= 0]
    each = [-(row[number] - row.logsumexp(0)).item() for row, number in rows]
    classification = 2 * sum(each) / len(each) if each else 0.0
    assert float(terms["contrastive"]) == pytest.approx(contrastive, abs=1e-6)
    assert float(terms["classification"]) == pytest.approx(classification, abs=1e-5)
    assert loss.item() == pytest.approx(contrastive + 0.2 * classification, abs=1e-5)
    assert torch.isfinite(loss)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_hidden_labels_count_for_nothing(workspace, draw, fraction):
    """Against the same loss with those labels taken away by hand, whichever clips of each class they fall on."""
    train, _ = clip_sets(workspace, [(3, label, "train") for label in ("a", "b", "a", "b", "", "a", "a")])
    model = build("uscl", train, label_fraction=fraction).double().eval()
    hidden = model.label_hidden.clone()
    counts = [int((~hidden[train.clips.label == number]).sum()) for number in range(2)]
    assert counts == [round(fraction * 4), round(fraction * 2)]
    frames = torch.rand(7, 3, 1, 32, 32, generator=draw, dtype=torch.float64)
    loss, _ = model.loss(frames, train.clips, torch.Generator().manual_seed(0))
    model.label_hidden.zero_()
    bare = train.clips._replace(label=train.clips.label.masked_fill(hidden, -1))
    assert torch.equal(loss, model.loss(frames, bare, torch.Generator().manual_seed(0))[0])
    full, _ = model.loss(frames, train.clips, torch.Generator().manual_seed(0))
    assert torch.equal(full, loss) == (fraction == 1.0)
