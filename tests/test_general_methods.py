"""The methods that know nothing of video: each loss against its paper's equation on the embeddings, in double precision."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_losses import barlow_twins_loop, info_nce_loop, vicreg_loop
from test_methods import METHODS, build, clip_sets

from stages.lib.params import UserError
from stages.lib.pretraining.momentum import KeyEncoder

MOMENTUM = ["byol", "cycle_contrast", "moco_v2", "ucl"]
CLIPS = [(frames, label, "train") for frames, label in zip([4, 2, 5, 3], ["a", "", "b", "a"], strict=True)]
CLIPS += [(3, "b", "held_out"), (4, "a", "held_out")]


@pytest.fixture
def train(workspace):
    return clip_sets(workspace, CLIPS)[0]


@pytest.fixture
def ready(train, monkeypatch):
    """Builds a method in double precision whose two views of a clip are those that are given it as frames, [B, 2, 1, H, W]."""

    def ready(name, **change):
        model = build(name, train, **change).double().train()
        monkeypatch.setattr(model, "two_views", lambda frames, clips, generator: frames.transpose(0, 1))
        return model

    return ready


@pytest.fixture
def frames(draw):
    return torch.rand(4, 2, 1, 32, 32, generator=draw, dtype=torch.float64)


def views_of(frames):
    """Left views, then right ones: what goes through a network in one pass, [2B, 1, H, W]."""
    return torch.cat([frames[:, 0], frames[:, 1]])


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.allclose(ours[key], theirs[key], rtol=1e-6, atol=1e-9) for key in ours)


def shift(model):
    """Move what is trained, as a step of the optimiser would."""
    with torch.no_grad():
        for parameter in model.trained():
            parameter.add_(0.1 * torch.randn_like(parameter))


def cosine(one, other):
    return (one @ other) / (one.norm() * other.norm())


def count_calls(modules):
    """Batch sizes of the calls of each module, a list that fills."""
    calls = [[] for _ in modules]
    for module, seen in zip(modules, calls, strict=True):
        module.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append(len(inputs[0])))
    return calls


def test_moco_tells_the_key_of_the_other_view_from_the_queue(ready, train, frames, draw):
    """Eq. 1 of He et al. 2020 with keys of an earlier step and of other weights among the negatives."""
    model = ready("moco_v2", queue_size=7, key_momentum=0.5)
    model.loss(frames.flip(0), train.clips, draw)
    shift(model)
    model.after_step()
    assert sorted(model.queue.clip.tolist()) == [-1] * 3 + train.clips.index.tolist()
    loss, _ = model.loss(frames, train.clips, draw)

    query = model.projection_head(model.backbone(frames[:, 0]))
    backbone, head = model.key_encoder.encoder
    key = head(backbone(frames[:, 1])).detach()
    query, key = (torch.stack([row / row.norm() for row in rows]) for rows in (query, key))
    assert (F.cosine_similarity(query, key) < 0.999).all()      # else a mix-up of the encoders could not be seen
    expected = info_nce_loop(query, key, [list(model.queue.embedding)] * 4, 0.2)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    assert same(gradients(model, loss), gradients(model, expected))

    oldest = model.queue.clip == -1
    model.after_step()
    assert not (model.queue.clip == -1).any() and oldest.sum() == 3
    distance = torch.cdist(key, model.queue.embedding).min(1)
    assert (distance.values < 1e-9).all()
    assert model.queue.clip[distance.indices].tolist() == train.clips.index.tolist()


def test_byol_predicts_the_slow_projection_of_the_other_view_both_ways_round(ready, train, frames, draw):
    """Eq. 2 of Grill et al. 2020, for both directions, the target network apart from the online one."""
    model = ready("byol")
    shift(model)
    loss, _ = model.loss(frames, train.clips, draw)
    prediction = model.predictor(model.projection_head(model.backbone(views_of(frames)))).chunk(2)
    target = model.key_encoder.encoder(views_of(frames)).detach().chunk(2)
    expected = 0.0
    for here, there in ((0, 1), (1, 0)):
        for q, z in zip(prediction[here], target[there], strict=True):
            expected = expected + (q / q.norm() - z / z.norm()).square().sum() / 4
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    assert same(gradients(model, loss), gradients(model, expected))


@pytest.mark.parametrize(("progress", "momentum"), [(0.0, 0.9), (0.25, 1 - 0.05 * (1 + 0.5**0.5)), (0.5, 0.95), (1.0, 1.0)])
def test_the_target_of_byol_slows_down_with_a_cosine(ready, train, frames, draw, progress, momentum):
    """1 − (1 − m₀) (cos(π k / K) + 1) / 2 (Sec. 3.3), from m₀ = 0.9 by way of the middle to 1."""
    assert momentum == pytest.approx(1 - (1 - 0.9) * (math.cos(math.pi * progress) + 1) / 2)
    model = ready("byol", key_momentum=0.9)
    before = {name: value.clone() for name, value in model.key_encoder.encoder.named_parameters()}
    shift(model)
    model.progress = progress
    model.after_step()
    online = dict(torch.nn.Sequential(model.backbone, model.projection_head).named_parameters())
    for name, value in model.key_encoder.encoder.named_parameters():
        expected = momentum * before[name] + (1 - momentum) * online[name].detach()
        assert torch.allclose(value, expected, rtol=0, atol=1e-12), name


@pytest.mark.parametrize("name", ["cycle_contrast", "moco_v2", "ucl"])
def test_other_key_encoders_follow_alike_at_any_time(train, draw, name):
    model = build(name, train, key_momentum=0.9).double()
    frames, clips = next(train.batches(4, model.pick, draw))
    model.progress = 0.7
    model.loss(frames.double(), clips, draw)
    before = {key: value.clone() for key, value in model.named_parameters() if key.startswith("key_")}
    shift(model)
    model.after_step()
    own = {key: value.detach() for key, value in model.named_parameters()}
    following = 0
    for key, value in before.items():
        inside = key.replace("key_encoder.encoder.0.", "backbone.").replace("key_encoder.encoder.1.", "projection_head.")
        source = own[inside.replace("key_backbone.encoder.", "backbone.").replace("key_heads.encoder.", "heads.")]
        assert torch.allclose(own[key], 0.9 * value + 0.1 * source, rtol=0, atol=1e-12), key
        following += not torch.equal(own[key], value)
    assert following == len(before) > 0


def simsiam_loop(model, frames, stop):
    """Eq. 1 and 2 of Chen & He 2021 with `stop` applied to the targets."""
    projection = model.projection_head(model.backbone(views_of(frames)))
    prediction, target = model.predictor(projection).chunk(2), stop(projection).chunk(2)
    total = 0.0
    for here, there in ((0, 1), (1, 0)):
        for p, z in zip(prediction[here], target[there], strict=True):
            total = total - cosine(p, z) / 2 / len(frames)
    return total


def test_simsiam_stops_the_gradient_at_its_targets(ready, train, frames, draw):
    model = ready("simsiam")
    loss, _ = model.loss(frames, train.clips, draw)
    expected, leaking = (simsiam_loop(model, frames, stop) for stop in (torch.Tensor.detach, lambda target: target))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    ours = gradients(model, loss)
    assert same(ours, gradients(model, expected)) and not same(ours, gradients(model, leaking))


def test_simsiam_equals_lightly(ready, train, frames, draw):
    criterion = pytest.importorskip("lightly.loss").NegativeCosineSimilarity()
    model = ready("simsiam")
    loss, _ = model.loss(frames, train.clips, draw)
    projection = model.projection_head(model.backbone(views_of(frames)))
    (p1, p2), (z1, z2) = model.predictor(projection).chunk(2), projection.detach().chunk(2)
    expected = (criterion(p1, z2) + criterion(p2, z1)) / 2
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert same(gradients(model, loss), gradients(model, expected))


@pytest.mark.parametrize(("kind", "spread"), [("even", 1.0), ("opposite", 1.0), ("half", 0.5**0.5), ("collapsed", 0.0)])
def test_the_spread_of_simsiam_tells_a_collapse(ready, train, draw, kind, spread):
    """1 of Gaussian rows, and of two opposite directions; √½ where half of the coordinates are 0; 0 of rows in one direction,
    whatever their lengths. Bare projections go in as frames."""
    model = ready("simsiam")
    model.backbone = torch.nn.Sequential(torch.nn.Flatten(0, 1), torch.nn.Flatten())
    model.projection_head = torch.nn.Identity()
    projection = torch.randn(2000, 2, 1, 1, 32, generator=draw, dtype=torch.float64)
    length = torch.rand(2000, 2, 1, 1, 1, generator=draw, dtype=torch.float64) + 0.1
    if kind == "opposite":
        projection = (length - 0.6).sign().expand_as(projection) * length
    elif kind == "half":
        projection[..., ::2] = 0
    elif kind == "collapsed":
        projection = projection[:1, :1] * length
    _, terms = model.loss(projection, train.clips, draw)
    assert float(terms["spread"]) == pytest.approx(spread, abs=0.01)
    assert not terms["spread"].requires_grad


def test_barlow_twins_is_eq_1_over_the_width(ready, train, frames, draw):
    model = ready("barlow_twins", embedding_width=6, off_diagonal_weight=0.02)
    loss, _ = model.loss(frames, train.clips, draw)
    left, right = model.projection_head(model.backbone(views_of(frames))).chunk(2)
    expected = barlow_twins_loop(left, right, 0.02) / 6
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    assert same(gradients(model, loss), gradients(model, expected))


def test_vicreg_is_eq_6_with_its_weights_in_their_places(ready, train, frames, draw):
    weights = {"invariance_weight": 2.0, "variance_weight": 3.0, "covariance_weight": 0.5}
    model = ready("vicreg", embedding_width=6, **weights)
    loss, _ = model.loss(frames, train.clips, draw)
    left, right = model.projection_head(model.backbone(views_of(frames))).chunk(2)
    expected = vicreg_loop(left, right, 2.0, 3.0, 0.5, [1.0] * 4)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    assert same(gradients(model, loss), gradients(model, expected))


class Plain:
    """No augmentation, and a normalisation of its own."""

    def normalise(self, frames):
        return 3 * frames - 1


@pytest.fixture
def supervised(train, monkeypatch):
    model = build("supervised", train).double()
    monkeypatch.setattr(model, "views", Plain())
    monkeypatch.setattr(model, "augment", lambda frames, clips, generator, dim: frames)
    return model


@pytest.mark.parametrize("label", [[0, -1, 1, 0], [-1, -1, 1, -1], [1, 1, 0, 0]])
def test_supervised_is_the_cross_entropy_of_the_labelled_clips(supervised, train, frames, draw, label):
    loss, _ = supervised.loss(frames[:, :1], train.clips._replace(label=torch.tensor(label)), draw)
    logits = supervised.classifier(supervised.backbone(3 * frames[:, 0] - 1))
    each = [-(row[number].exp() / row.exp().sum()).log() for row, number in zip(logits, label, strict=True) if number >= 0]
    expected = sum(each) / len(each)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert same(gradients(supervised, loss), gradients(supervised, expected))


def test_supervised_has_nothing_to_learn_from_a_batch_without_labels(supervised, train, frames, draw):
    loss, _ = supervised.loss(frames[:, :1], train.clips._replace(label=torch.full((4,), -1)), draw)
    assert loss.item() == 0
    found = gradients(supervised, loss)
    assert found.keys() == dict(supervised.named_parameters()).keys()
    assert all((gradient == 0).all() for gradient in found.values())


@pytest.mark.parametrize("elsewhere", ["", "a"])
def test_supervised_without_a_labelled_training_clip_is_refused(workspace, elsewhere):
    train, _ = clip_sets(workspace, [(3, "", "train"), (2, "", "train"), (3, elsewhere, "held_out"), (4, "", "held_out")])
    with pytest.raises(UserError, match="pretrain.method is supervised, but no training clip has a pooled class"):
        build("supervised", train)


@pytest.mark.parametrize("name", MOMENTUM)
def test_no_gradient_reaches_a_key_encoder(train, draw, name):
    model = build(name, train)
    model.progress = 0.9
    encoders = [module for module in model.modules() if isinstance(module, KeyEncoder)]
    inside, outputs = [module for encoder in encoders for module in encoder.modules()], []
    for module in inside:
        module.register_forward_hook(lambda _, inputs, output: outputs.append(output.requires_grad))
    frames, clips = next(train.batches(4, model.pick, draw))
    loss, _ = model.loss(frames, clips, draw)
    loss.backward()
    keys = {id(parameter) for encoder in encoders for parameter in encoder.parameters()}
    assert encoders and len(outputs) > 20 and not any(outputs)
    assert keys.isdisjoint(id(parameter) for parameter in model.trained())
    for parameter in model.parameters():
        assert (id(parameter) in keys) == (parameter.grad is None) == (not parameter.requires_grad)


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_takes_one_pass_through_each_backbone(train, draw, name):
    """Both views at once; of MoCo and its kin each encoder sees its own."""
    model = build(name, train)
    model.train(name != "meta_uscl")        # which trains with the forward pass of `before_step`
    key_backbone = {
        "byol": lambda: model.key_encoder.encoder[0],
        "cycle_contrast": lambda: model.key_backbone.encoder,
        "moco_v2": lambda: model.key_encoder.encoder[0],
        "ucl": lambda: model.key_encoder.encoder[0],
    }
    backbones = [model.backbone, *([key_backbone[name]()] if name in MOMENTUM else [])]
    calls = count_calls([backbone.network for backbone in backbones])
    frames, clips = next(train.batches(4, model.pick, draw))
    model.loss(frames, clips, draw)
    expected = {"byol": [[8], [8]], "supervised": [[4]]} | dict.fromkeys(["cycle_contrast", "moco_v2"], [[4], [4]])
    expected["ucl"] = [[4 * frames.shape[1] - 4], [4]]        # the query encoder also sees the negatives of the own clip
    assert calls == expected.get(name, [[8]])
