"""UCL: frames, curriculum, cross-video negative and loss against loops from METHODS (Basu et al. 2022)."""

import math
from collections import Counter
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from test_methods import build, clip_sets

from stages.lib.params import UserError
from stages.lib.pretraining.clip_set import Clips

FAR, NEAR = ("0.2", "0.4"), ("0.03", "0.07")
WINDOWS = [(0.3, FAR), (1.0, NEAR)]  # progress, and what the negatives' window is then


@pytest.fixture
def train(workspace):
    return clip_sets(workspace)[0]


def clips_of(*numbers, index=None):
    """Clips of these frame numbers each, as a method sees them when it picks."""
    longest = max(map(len, numbers))
    return Clips(
        index=torch.tensor(index or range(len(numbers))),
        count=torch.tensor([len(own) for own in numbers]),
        label=torch.full((len(numbers),), -1),
        fps=torch.full((len(numbers),), 25.0),
        number=torch.tensor([[*own] + [-1] * (longest - len(own)) for own in numbers]),
    )


def allowed_anchors(numbers):
    n = numbers[-1] + 1
    inside = [number for number in numbers if Fraction("0.2") * n <= number < Fraction("0.5") * n]
    return inside or list(numbers)


def allowed_positives(numbers, anchor):
    return [number for number in numbers if abs(number - anchor) <= 3]


def allowed_negatives(numbers, anchor, window):
    n = numbers[-1] + 1
    low, high = (Fraction(edge) * n for edge in window)
    return [number for number in numbers if low <= abs(number - anchor) < high and abs(number - anchor) > 3]


def fits(drawn, expected):
    """Whether just these outcomes were drawn, as often as their probabilities say."""
    assert set(drawn) == set(expected) and sum(expected.values()) == 1
    total = sum(drawn.values())
    return chisquare([drawn[key] for key in expected], [float(share * total) for share in expected.values()]).pvalue > 1e-3


@pytest.mark.parametrize(("progress", "window"), WINDOWS)
@pytest.mark.parametrize("numbers", [range(40), range(0, 400, 4), range(0, 73, 8), [0, 1, 2, 9, 11, 12, 13, 20, 30, 31, 47]])
def test_every_allowed_frame_is_drawn_as_often_and_no_other(train, draw, numbers, progress, window):
    model = build("ucl", train)
    model.progress, numbers = progress, list(numbers)
    single = clips_of(numbers)
    picked = model.pick(Clips(*(value.expand(20000, *value.shape[1:]) for value in single)), draw)
    drawn = [[numbers[place] for place in row] for row in picked.tolist()]
    anchors = allowed_anchors(numbers)
    expected_positive, expected_negative = {}, {}
    for anchor in anchors:
        positives = allowed_positives(numbers, anchor)
        negatives = allowed_negatives(numbers, anchor, window)
        expected_positive |= {(anchor, other): Fraction(1, len(anchors) * len(positives)) for other in positives}
        negatives = negatives or [anchor]
        expected_negative |= {(anchor, other): Fraction(1, len(anchors) * len(negatives)) for other in negatives}
    assert fits(Counter((row[0], row[1]) for row in drawn), expected_positive)
    assert fits(Counter((row[0], row[2]) for row in drawn), expected_negative)
    for row in drawn:
        allowed, present = allowed_negatives(numbers, row[0], window), [other for other in row[2:] if other != row[0]]
        assert len(present) == len(set(present)) == min(3, len(allowed)) and set(present) <= set(allowed)


@pytest.mark.parametrize(("progress", "window"), WINDOWS)
@pytest.mark.parametrize("step", [1, 8])
def test_clips_of_every_length_give_allowed_frames_and_the_anchor_for_a_missing_one(train, draw, progress, window, step):
    """All lengths at once, from one frame on; after thinning no frame may be left near the anchor but itself."""
    model = build("ucl", train)
    model.progress = progress
    numbers = [list(range(0, step * frames, step)) for frames in range(1, 61)]
    missing = 0
    for _ in range(15):
        for own, row in zip(numbers, model.pick(clips_of(*numbers), draw).tolist(), strict=True):
            anchor, positive, *negatives = [own[place] for place in row]
            assert anchor in allowed_anchors(own) and positive in allowed_positives(own, anchor)
            allowed = allowed_negatives(own, anchor, window)
            assert sorted(set(negatives) - {anchor}) == sorted(other for other in negatives if other != anchor)
            assert set(negatives) - {anchor} <= set(allowed)
            assert negatives.count(anchor) == max(0, 3 - len(allowed))
            missing += negatives.count(anchor)
    assert missing > 0


def test_negatives_of_the_own_clip_come_in_when_the_curriculum_says(train, draw):
    model = build("ucl", train, intra_from=0.25)
    for progress, frames in [(0.0, 2), (0.2499, 2), (0.25, 5), (1.0, 5)]:
        model.progress = progress
        assert model.pick(train.clips, draw).shape == (len(train), frames)


@pytest.mark.parametrize(("progress", "easy"), [(0, 1), (0.167, 1), (0.4, 1), (0.6, 3 / 4), (0.7, 1 / 2), (0.8, 1 / 4), (1, 0)])
def test_the_window_follows_the_cosine(train, progress, easy):
    """(1 + cos πt) / 2 at t = 0, 1/3, 1/2, 2/3, 1 of the way from harder_from to the end."""
    model = build("ucl", train, harder_from=0.4)
    model.progress = progress
    assert model.window() == pytest.approx([0.03 + 0.17 * easy, 0.07 + 0.33 * easy], abs=1e-12)


def test_the_curriculum_that_is_logged_is_the_window_once_negatives_come_in(train):
    model = build("ucl", train, intra_from=0.25)
    model.progress = 0.2
    assert all(math.isnan(edge) for edge in model.curriculum().values())
    model.progress = 0.75
    low, high = model.window()
    assert model.curriculum() == {"negative_low": low, "negative_high": high} and 0.03 < low < high < 0.4


def cross_negative_loop(query, queue, queue_clip, clip, mined, temperature):
    others = [key for key, owner in zip(queue, queue_clip, strict=True) if owner != clip]
    nearest = sorted(others, key=lambda key: float(query @ key), reverse=True)[:mined]
    exponents = [math.exp(float(query @ key) / temperature) for key in nearest]
    return sum(exponent / sum(exponents) * key for exponent, key in zip(exponents, nearest, strict=True))


def unit_rows(rows, width, draw):
    return F.normalize(torch.randn(rows, width, generator=draw, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("mined", [1, 4])
def test_the_cross_negative_equals_the_loop_and_passes_over_own_keys(train, draw, mined):
    model = build("ucl", train, cross_mined=mined, queue_size=24, embedding_width=5).double()
    query, clip = unit_rows(6, 5, draw), torch.tensor([0, 1, 2, 3, 0, 9])
    keys, owners = unit_rows(24, 5, draw), torch.arange(24) % 5 - 1
    for place, own in enumerate(clip[:4]):          # the nearest key of all is the clip's own
        keys[place], owners[place] = query[place], own
    model.queue.embedding.copy_(keys)
    model.queue.clip.copy_(owners)
    found, _ = model.cross_negative(query, clip)
    for ours, one, own in zip(found, query, clip.tolist(), strict=True):
        expected = cross_negative_loop(one, keys, owners.tolist(), own, mined, 0.07)
        assert torch.allclose(ours, expected, atol=1e-12)


def test_fewer_keys_of_other_clips_than_are_mined_are_all_taken(train, draw):
    model = build("ucl", train, cross_mined=4, queue_size=6, embedding_width=5).double()
    query, keys, owners = unit_rows(3, 5, draw), unit_rows(6, 5, draw), [7, 7, 2, 7, 3, 7]
    model.queue.embedding.copy_(keys)
    model.queue.clip.copy_(torch.tensor(owners))
    for ours, one in zip(model.cross_negative(query, torch.tensor([7, 7, 7]))[0], query, strict=True):
        assert torch.allclose(ours, cross_negative_loop(one, keys, owners, 7, 4, 0.07), atol=1e-12)


NUMBERS = [[30, 32, 50, 12, 55], [10, 10, 30, 10, 10], [7, 8, 7, 7, 7], [20, 17, 40, 1, 39], [5, 5, 20, 9, 30]]


@pytest.mark.parametrize(("batch", "intra"), [(1, 3), (2, 3), (5, 3), (4, 0)])
def test_the_loss_equals_the_equation_without_missing_negatives(train, draw, batch, intra):
    """Rows 1 and 2 of NUMBERS lack two and all three negatives. Views are drawn again from the same state."""
    model = build("ucl", train, embedding_width=6, queue_size=16, cross_mined=2).double().eval()
    for parameter in model.key_encoder.parameters():        # so that it matters which encoder sees a frame
        parameter.add_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * 0.02)
    model.queue.clip.copy_(torch.arange(16) % 6)
    clips = clips_of(*([number] for number in range(batch)))._replace(number=torch.tensor(NUMBERS)[:batch, : 2 + intra])
    frames = torch.rand(batch, 2 + intra, 1, 32, 32, generator=draw, dtype=torch.float64)
    state = draw.get_state()
    loss, terms = model.loss(frames, clips, draw)

    views = model.views.normalise(model.views(frames.flatten(0, 1), draw.set_state(state))).unflatten(0, (batch, -1))
    total = 0.0
    for clip, (own, numbers) in enumerate(zip(views, clips.number.tolist(), strict=True)):
        query, *negatives = F.normalize(model.projection_head(model.backbone(torch.cat([own[:1], own[2:]]))), dim=1).detach()
        positive = F.normalize(model.key_encoder.encoder(own[1:2]), dim=1)[0]
        negatives = [z for z, number in zip(negatives, numbers[2:], strict=True) if number != numbers[0]]
        negatives.append(cross_negative_loop(query, model.queue.embedding, model.queue.clip.tolist(), clip, 2, 0.07))
        weight = math.exp(float(query @ positive) / 0.07)
        total -= math.log(weight / (weight + sum(math.exp(float(query @ z) / 0.07) for z in negatives)))
    assert loss.item() == pytest.approx(total / batch, rel=1e-7)        # the views' grid is single precision at best
    assert terms["frame_distance"].tolist() == [abs(own[1] - own[0]) for own in NUMBERS[:batch]]
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.trained())


def test_the_queue_and_the_key_encoder_move_in_after_step_only(train, draw):
    model = build("ucl", train)
    model.progress = 0.5
    before = {name: value.clone() for name, value in model.state_dict().items()}
    moved = lambda: {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}  # noqa: E731
    for _ in range(2):
        frames, clips = next(train.batches(5, model.pick, draw))
        loss, _ = model.eval().loss(frames, clips, draw)
    assert moved() == set()
    with torch.no_grad():
        model.projection_head[0].weight.add_(1)
    model.after_step()
    assert {"queue.embedding", "queue.clip", "queue.next"} < moved()
    assert model.queue.clip[:5].tolist() == clips.index.tolist() and model.queue.clip[5:].eq(-1).all()
    assert torch.equal(model.queue.embedding[:5], model.keys[0]) and model.queue.next == 5
    trained, key = model.projection_head[0].weight, model.key_encoder.encoder[1][0].weight
    assert torch.allclose(key, 0.999 * (trained - 1) + 0.001 * trained, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "value"),
    [("cross_mined", 300), ("positive_range", -1), ("intra_from", 0.6), ("far_window", [0.4, 0.2]), ("near_window", [0.1]),
     ("anchor_window", [0.2, 1.5])],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_by_name(train, key, value):
    with pytest.raises(UserError, match=rf"methods\.ucl.*{key}"):
        build("ucl", train, **{key: value})
