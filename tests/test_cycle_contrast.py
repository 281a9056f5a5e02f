"""CycleContrast: frames, the cycle and the queues against METHODS (Wu & Wang 2021)."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binom, chisquare
from test_methods import build, clip_sets
from test_ucl import clips_of, unit_rows

from stages.lib.params import UserError
from stages.lib.pretraining.clip_set import Clips
from stages.methods import cycle_contrast

WIDTH, QUEUE = 5, 20


@pytest.fixture
def train(workspace):
    return clip_sets(workspace)[0]


@pytest.fixture
def model(train, draw):
    """In double precision, its queues full of keys of clips 0 to 4."""
    model = build("cycle_contrast", train, embedding_width=WIDTH, queue_size=QUEUE, support_fraction=0.3).double().eval()
    for queue in (model.intra_queue, model.cycle_queue):
        queue.embedding.copy_(unit_rows(QUEUE, WIDTH, draw))
        queue.clip.copy_(torch.arange(QUEUE) % 5)
    return model


@pytest.fixture
def rests(model, monkeypatch):
    """Filled with the places in the queue of what each cycle has for negatives."""
    places, inner = [], cycle_contrast.info_nce

    def spy(query, positive, negatives, *rest):
        equal = (negatives[:, None] == model.cycle_queue.embedding).all(2)
        if equal.any():
            assert (equal.sum(1) == 1).all()
            places.append(equal.int().argmax(1).tolist())
        return inner(query, positive, negatives, *rest)

    monkeypatch.setattr(cycle_contrast, "info_nce", spy)
    return places


def cycle_loop(model, query, back, clips, rest):
    keys, owners = model.cycle_queue.embedding, model.cycle_queue.clip.tolist()
    support = [place for place in range(QUEUE) if place not in rest]
    total = 0.0
    for q, key, clip in zip(query, back, clips, strict=True):
        others = [place for place in support if owners[place] != clip]
        weights = {place: math.exp(float(q @ keys[place]) / model.neighbour_temperature) for place in others}
        neighbour = sum(weight / sum(weights.values()) * keys[place] for place, weight in weights.items())
        neighbour = neighbour / neighbour.norm()
        there = math.exp(float(neighbour @ key) / model.temperature)
        away = [math.exp(float(neighbour @ keys[place]) / model.temperature) for place in rest if owners[place] != clip]
        total -= math.log(there / (there + sum(away)))
    return total / len(query)


def test_two_distinct_frames_every_ordered_pair_as_often(model, draw):
    clips = Clips(*(value.expand(8000, *value.shape[1:]) for value in clips_of(range(0, 40, 8))))
    pairs, counts = np.unique(model.pick(clips, draw).numpy(), axis=0, return_counts=True)
    assert len(pairs) == 5 * 4 and (pairs[:, 0] != pairs[:, 1]).all()
    assert chisquare(counts).pvalue > 1e-3


def test_a_clip_of_one_frame_gives_it_twice(model, draw):
    for clips in (clips_of([0]), clips_of([0], range(9))):
        for _ in range(20):
            assert model.pick(clips, draw)[0].tolist() == [0, 0]


def test_the_cycle_equals_the_loop_without_own_keys(model, rests, draw):
    """Each clip's query is a key of its own in the queue: taken in, that would be its neighbour."""
    clip = torch.tensor([0, 1, 2, 3, 4, 7])
    back = unit_rows(6, WIDTH, draw)
    query = torch.cat([model.cycle_queue.embedding[:5], unit_rows(1, WIDTH, draw)])
    for _ in range(5):
        loss = model.cycle(query, back, clip, draw)
        assert float(loss) == pytest.approx(cycle_loop(model, query, back, clip.tolist(), rests[-1]), rel=1e-10)


def test_the_support_is_a_random_part_of_the_asked_size(model, rests, draw):
    query, back, clip = unit_rows(2, WIDTH, draw), unit_rows(2, WIDTH, draw), torch.tensor([0, 9])
    for _ in range(2000):
        model.cycle(query, back, clip, draw)
    supports = [set(range(QUEUE)) - set(rest) for rest in rests]
    assert {len(support) for support in supports} == {round(0.3 * QUEUE)}
    assert len(set(map(frozenset, supports))) > 1000
    times = [sum(place in support for support in supports) for place in range(QUEUE)]
    low, high = binom(2000, 0.3).interval(1 - 1e-3 / QUEUE)
    assert low <= min(times) and max(times) <= high


def test_a_queue_of_own_keys_only_gives_a_finite_loss_and_gradient(model, draw):
    model.cycle_queue.clip.fill_(3)
    query = unit_rows(2, WIDTH, draw).requires_grad_()
    loss = model.cycle(query, unit_rows(2, WIDTH, draw), torch.tensor([3, 4]), draw)
    loss.backward()
    assert loss.isfinite() and query.grad.isfinite().all()


@pytest.mark.parametrize("fraction", [0, 0.0, 1, 1.0, 0.001, 0.999, -0.5, 2.0])
def test_a_support_of_nothing_or_all_of_the_queue_is_refused(train, fraction):
    with pytest.raises(UserError, match=r"methods\.cycle_contrast\.support_fraction is"):
        build("cycle_contrast", train, support_fraction=fraction)


def test_the_loss_is_the_sum_of_its_terms(model, train, rests, draw):
    """The first frame goes to the trained network, the second to the key encoders; each head to its own queue."""
    for part in (model.key_backbone, model.key_heads):
        for parameter in part.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * 0.02)
    frames, clips = next(train.batches(4, model.pick, draw))
    frames, state = frames.double(), draw.get_state()
    loss, terms = model.loss(frames, clips, draw)
    views = model.views.normalise(model.views(torch.cat([frames[:, 0], frames[:, 1]]), draw.set_state(state)))
    feature, key_feature = model.backbone(views[:4]).detach(), model.key_backbone.encoder(views[4:]).detach()
    queries = [F.normalize(head(feature), dim=1).detach() for head in model.heads]
    keys = [F.normalize(head(key_feature), dim=1).detach() for head in model.key_heads.encoder]
    intra = 0.0
    for q, key in zip(queries[0], keys[0], strict=True):
        there = math.exp(float(q @ key) / model.temperature)
        away = [math.exp(float(q @ other) / model.temperature) for other in model.intra_queue.embedding]
        intra -= math.log(there / (there + sum(away))) / 4
    cycle = cycle_loop(model, queries[1], keys[1], clips.index.tolist(), rests[-1])
    assert float(terms["intra"]) == pytest.approx(intra, rel=1e-7) and float(terms["cycle"]) == pytest.approx(cycle, rel=1e-7)
    assert loss.item() == pytest.approx(intra + model.cycle_weight * cycle, rel=1e-7)
    distance = [abs(one - other) for one, other in clips.number.tolist()]
    assert terms["frame_distance"].tolist() == distance


def test_the_queues_move_in_after_step_only(model, train, draw):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frames, clips = next(train.batches(4, model.pick, draw))
    model.loss(frames.double(), clips, draw)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.after_step()
    for queue, key in zip((model.intra_queue, model.cycle_queue), model.keys[:2], strict=True):
        assert torch.equal(queue.embedding[:4], key) and queue.clip[:4].tolist() == clips.index.tolist() and queue.next == 4
