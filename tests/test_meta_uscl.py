"""Meta-USCL: the meta-gradient against double backward, pair interpolation against its distribution, what must not move."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import beta, chisquare, kstest
from test_methods import BLOCKS, build, clip_sets
from torch import nn
from torch.func import functional_call

from stages.lib.params import UserError
from stages.lib.pretraining.clip_set import Clips
from stages.lib.pretraining.losses import nt_xent
from stages.lib.pretraining.meta_gradient import virtual_step
from stages.lib.training.optimizer import optimizer_and_schedule

CLIPS = [(frames, "", "train") for frames in (1, 2, 3, 5, 9, 6, 4, 8)] + [(frames, "", "held_out") for frames in (4, 6, 5, 7)]


class SmallBackbone(nn.Module):
    """Two convolutions with batch norm, and dropout, whose masks the forward-mode pass must repeat."""

    feature_width = 6

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.3),
            nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )

    def forward(self, frames):
        return self.network(frames.flatten(0, -4))


@pytest.fixture
def sets(workspace):
    return clip_sets(workspace, CLIPS)


@pytest.fixture
def model(sets, monkeypatch):
    """The method around the small backbone, in double precision, in training."""
    block = {key: value for key, value in BLOCKS["meta_uscl"].items() if key not in ("optimizer", "views", "keep")}
    train, held_out = sets
    views = build("simclr", train).views
    kind = type(build("meta_uscl", train, held_out))
    torch.manual_seed(0)
    method = kind(SmallBackbone(), train, views, held_out, **block | {"embedding_width": 5}).double().train()
    drawn = method.meta_views
    monkeypatch.setattr(method, "meta_views", lambda: drawn().double())
    return method


def optimizer_of(method):
    return optimizer_and_schedule(method.trained(), 10, "sgd", 0.1, 1e-2, 0.0, 1.0, None)[0]


def batch(method, draw):
    frames, clips = next(iter(method.clip_set.batches(8, method.pick, draw)))
    return frames.double(), clips


def step(method, optimizer, draw):
    frames, clips = batch(method, draw)
    method.before_step(frames, clips, optimizer, draw)
    loss, terms = method.loss(frames, clips, draw)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss, terms


def by_double_backward(method, views, meta_views, optimizer):
    """∂L(θ')/∂(weight network) through a virtual step whose own graph is kept."""
    parameters, buffers = method.encoder_parameters(), dict(method.named_buffers())
    copies = [{name: value.clone() for name, value in buffers.items()} for _ in range(2)]
    feature, embedding = functional_call(method, parameters | copies[0], (views,))
    weight = method.weight_network(torch.cat(feature.detach().chunk(2), 1)).squeeze(1)
    loss = nt_xent(*embedding.chunk(2), method.temperature, weight)
    gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
    group, after = optimizer.param_groups[0], {}
    for (name, value), gradient in zip(parameters.items(), gradients, strict=True):
        direction = gradient + group["weight_decay"] * value
        if value in optimizer.state:
            direction = direction + group["momentum"] * optimizer.state[value]["momentum_buffer"]
        after[name] = value - group["lr"] * direction
    meta = nt_xent(*functional_call(method, after | copies[1], (meta_views,))[1].chunk(2), method.temperature)
    return torch.autograd.grad(meta, list(method.weight_network.parameters()))


@pytest.mark.parametrize("steps_before", [0, 2])
def test_the_meta_gradient_equals_double_backward(model, draw, monkeypatch, steps_before):
    """Momentum and weight decay are in the virtual step, dropout draws from torch's own stream in every pass."""
    optimizer = optimizer_of(model)
    for _ in range(steps_before):
        step(model, optimizer, draw)
    frames, clips = batch(model, draw)
    views, meta_views = model.pairs(frames, clips, draw), model.meta_views()
    monkeypatch.setattr(model, "pairs", lambda *_: views)
    monkeypatch.setattr(model, "meta_views", lambda: meta_views)
    torch.manual_seed(7)
    expected = by_double_backward(model, views, meta_views, optimizer)
    torch.manual_seed(7)
    weights = list(model.weight_network.parameters())
    got = []
    monkeypatch.setattr(model.weight_optimizer, "step", lambda: got.extend(value.grad.clone() for value in weights))
    model.before_step(frames, clips, optimizer, draw)
    size = max(gradient.abs().max() for gradient in expected)
    assert size > 1e-8
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-9 * size


def test_the_virtual_step_is_the_step_of_the_optimiser(model, draw):
    optimizer = optimizer_of(model)
    for _ in range(3):
        frames, clips = batch(model, draw)
        feature, embedding = model(model.pairs(frames, clips, draw))
        loss = model.terms(embedding).mean()
        after = virtual_step(model.encoder_parameters(), loss, optimizer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, value in model.encoder_parameters().items():
            assert torch.allclose(value, after[name], atol=1e-12), name


def test_the_meta_step_touches_nothing_but_the_weight_network(model, draw):
    """Parameters, batch norm's buffers (but for the one real forward pass), optimiser state, random streams."""
    optimizer = optimizer_of(model)
    step(model, optimizer, draw)
    frames, clips = batch(model, draw)
    twin, twin_draw = copy.deepcopy(model), torch.Generator()
    twin_draw.set_state(draw.get_state())
    states = copy.deepcopy(optimizer.state_dict())
    torch.manual_seed(3)
    twin(twin.pairs(frames, clips, twin_draw))                      # the real forward pass alone
    after_forward = torch.get_rng_state()
    torch.manual_seed(3)
    model.before_step(frames, clips, optimizer, draw)
    assert torch.equal(torch.get_rng_state(), after_forward) and torch.equal(draw.get_state(), twin_draw.get_state())
    for (name, value), other in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        if name == "_extra_state":
            continue
        assert torch.equal(value, other) != name.startswith("weight_network."), name
    assert all(value.grad is None or torch.equal(value.grad, other.grad) for value, other in
               zip(model.trained(), twin.trained(), strict=True) if other.grad is not None)
    for number, state in optimizer.state_dict()["state"].items():
        assert torch.equal(state["momentum_buffer"], states["state"][number]["momentum_buffer"])


def test_the_real_step_takes_the_fresh_weights_and_gives_them_no_gradient(model, draw, monkeypatch):
    optimizer = optimizer_of(model)
    frames, clips = batch(model, draw)
    old = [value.clone() for value in model.weight_network.parameters()]
    model.before_step(frames, clips, optimizer, draw)
    feature, terms = model.forward_pass
    model.weight_optimizer.zero_grad()
    loss, logged = model.loss(frames, clips, draw)
    assert any(not torch.equal(value, before) for value, before in zip(model.weight_network.parameters(), old, strict=True))
    weight = model.weight_network(torch.cat(feature.chunk(2), 1)).squeeze(1)
    assert torch.allclose(logged["weight"], weight)
    assert loss.item() == pytest.approx(((weight * terms).sum() / weight.sum()).item(), abs=1e-12)
    loss.backward()
    assert all(value.grad is None for value in model.weight_network.parameters())
    assert logged["frame_distance"].tolist() == (clips.number[:, -1] - clips.number[:, 0]).tolist()


def test_held_out_clips_are_not_weighted(model, draw):
    frames, clips = batch(model, draw)
    model.eval()
    twin = torch.Generator()
    twin.set_state(draw.get_state())
    loss, _ = model.loss(frames, clips, draw)
    left, right = model(model.pairs(frames, clips, twin))[1].chunk(2)
    assert float(loss) == pytest.approx(float(nt_xent(left, right, model.temperature)), abs=1e-12)


def test_the_meta_set_is_the_held_out_part_and_any_of_its_frames(sets, monkeypatch):
    """Frames are told by their pixels: no training frame among them, and not frame 0 alone."""
    train, held_out = sets
    model = build("meta_uscl", train, held_out, meta_batch_size=3)
    monkeypatch.setattr(model, "augment", lambda frames, clips, draw, dim: frames)
    monkeypatch.setattr(type(model.views), "normalise", lambda self, frames: frames)
    seen = set()
    for _ in range(60):
        left, right = model.meta_views()
        assert torch.equal(left, right) and len(left) == 3
        seen |= {frame.numpy().tobytes() for frame in left}
    frames = [{frame.numpy().tobytes() for frame in part.frames[torch.arange(len(part.frames))]} for part in (held_out, train)]
    assert seen == frames[0] and not seen & frames[1]


def test_a_meta_step_every_so_many_steps(model, draw):
    model.meta_every, moved = 3, []
    optimizer = optimizer_of(model)
    for _ in range(7):
        before = model.weight_network[0].weight.clone()
        step(model, optimizer, draw)
        moved.append(not torch.equal(before, model.weight_network[0].weight))
    assert moved == [True, False, False, True, False, False, True]


def test_another_optimiser_than_sgd_is_refused(model, draw):
    optimizer = optimizer_and_schedule(model.trained(), 10, "adam", 0.1, 0.0, 0.0, 1.0, None)[0]
    with pytest.raises(UserError, match="methods.meta_uscl.optimizer.name must be sgd"):
        model.before_step(*batch(model, draw), optimizer, draw)


def test_a_limit_of_the_gradient_which_the_virtual_step_does_not_have_is_refused(model, draw):
    optimizer = optimizer_and_schedule(model.trained(), 10, "sgd", 0.1, 0.0, 0.0, 1.0, 1e-3)[0]
    with pytest.raises(UserError, match="methods.meta_uscl.optimizer.gradient_norm must be null"):
        model.before_step(*batch(model, draw), optimizer, draw)


def clips_of(count, copies):
    """Copies of a clip of `count` frames."""
    count = torch.full((copies,), count)
    number = torch.arange(int(count[0])).expand(copies, -1)
    return Clips(torch.zeros_like(count), count, count * 0 - 1, count.float(), number)


@pytest.mark.parametrize(("count", "most"), [(3, None), (6, None), (9, 4)])
def test_frames_are_in_time_order_and_drawn_as_specified(sets, draw, count, most):
    """Against the loop: two distinct distances of 1 … max, then the first frame uniform among those where they fit."""
    model = build("meta_uscl", *sets, max_distance=most)
    picked = model.pick(clips_of(count, 20000), draw)
    furthest = min(count - 1, most or count)
    chance = {}
    pairs = [(near, far) for near in range(1, furthest + 1) for far in range(near + 1, furthest + 1)]
    for near, far in pairs:
        for first in range(count - far):
            chance[first, first + near, first + far] = 1 / len(pairs) / (count - far)
    triples, counts = np.unique(picked.numpy(), axis=0, return_counts=True)
    assert {tuple(triple) for triple in triples.tolist()} == set(chance)
    expected = [chance[tuple(triple)] * len(picked) for triple in triples.tolist()]
    assert len(chance) == 1 or chisquare(counts, expected).pvalue > 1e-3


def test_a_distance_within_which_the_frames_of_inner_have_no_room_is_refused(sets):
    """Repeated frames would have several shares, so that the mixture is not uniform on the simplex."""
    with pytest.raises(UserError, match="max_distance is 3; 5 frames of inner need 4 or more, or null"):
        build("meta_uscl", *sets, mixing="inner", mixing_frames=5, max_distance=3)
    assert build("meta_uscl", *sets, mixing="inner", mixing_frames=5, max_distance=4).mixing_frames == 5
    assert build("meta_uscl", *sets, mixing="standard", mixing_frames=5, max_distance=3).mixing_frames == 3


@pytest.mark.parametrize("mixing", ["standard", "inner"])
def test_short_clips_give_their_frames_as_they_are(sets, draw, mixing):
    model = build("meta_uscl", *sets, mixing=mixing)
    one, two = (model.pick(clips_of(count, 5), draw) for count in (1, 2))
    assert one.tolist() == [[0, 0, 0]] * 5 and two[:, [0, -1]].tolist() == [[0, 1]] * 5
    left, right = model.mixing_weights(clips_of(2, 5), draw)
    assert left.tolist() == [[1, 0, 0]] * 5 and right.tolist() == [[0, 0, 1]] * 5


def test_standard_mixing_is_two_independent_betas(sets, draw):
    model = build("meta_uscl", *sets)
    left, right = model.mixing_weights(clips_of(5, 4000), draw)
    first, second = left[:, 1].numpy(), right[:, 1].numpy()
    assert kstest(first, beta(3, 5).cdf).pvalue > 1e-3 and kstest(second, beta(3, 5).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06
    assert torch.allclose(left, torch.stack([1 - left[:, 1], left[:, 1], torch.zeros(4000)], 1), atol=1e-6)
    assert torch.allclose(right, torch.stack([torch.zeros(4000), right[:, 1], 1 - right[:, 1]], 1), atol=1e-6)


def test_inner_mixing_is_uniform_on_the_simplex(sets, draw):
    """A coordinate of a uniform point of the simplex of n vertices is Beta(1, n − 1); spacings of sorted uniforms agree."""
    model = build("meta_uscl", *sets, mixing="inner", mixing_frames=4)
    weights = model.mixing_weights(clips_of(6, 4000), draw)
    assert torch.allclose(weights.sum(2), torch.ones(2, 4000), atol=1e-5)
    rng = np.random.default_rng(0)
    cuts = np.sort(rng.random((4000, 3)), 1)
    spacings = np.diff(np.concatenate([np.zeros((4000, 1)), cuts, np.ones((4000, 1))], 1), axis=1)
    for side in range(2):
        for frame in range(4):
            assert kstest(weights[side, :, frame].numpy(), beta(1, 3).cdf).pvalue > 1e-4
            assert kstest(weights[side, :, frame].numpy(), spacings[:, frame]).pvalue > 1e-4
    three = model.mixing_weights(clips_of(3, 500), draw)
    assert (three[..., 3] == 0).all() and torch.allclose(three.sum(2), torch.ones(2, 500), atol=1e-5)


def test_frames_are_mixed_before_they_are_augmented(model, draw, monkeypatch):
    frames, clips = batch(model, draw)
    weights = model.mixing_weights(clips, draw).double()
    monkeypatch.setattr(model, "mixing_weights", lambda *_: weights)
    given = []
    monkeypatch.setattr(model, "augment", lambda mixed, clips, draw, dim: given.append(mixed.flatten(0, 1)) or mixed)
    model.pairs(frames, clips, draw)
    expected = [sum(weights[side, b, n] * frames[b, n] for n in range(3)) for side in range(2) for b in range(len(frames))]
    assert torch.allclose(given[0], torch.stack(expected), atol=1e-12)


def test_too_few_held_out_clips_are_refused(workspace):
    train, held_out = clip_sets(workspace, CLIPS[:9])
    with pytest.raises(UserError, match="clips held out: 1, too few for a meta set"):
        build("meta_uscl", train, held_out)
