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


def allowed_anchors(frames):
    """Of places 0 to frames − 1."""
    inside = [place for place in range(frames) if Fraction("0.2") * frames <= place < Fraction("0.5") * frames]
    return inside or list(range(frames))


def allowed_positives(frames, anchor):
    return [place for place in range(frames) if 0 < abs(place - anchor) <= 3]


def allowed_negatives(frames, anchor, window):
    """The window has room for two frames beyond the positive range; if it is empty, all frames beyond that range will do."""
    low, high = (Fraction(edge) * frames for edge in window)
    beyond = [place for place in range(frames) if abs(place - anchor) > 3]
    return [place for place in beyond if max(low, 4) <= abs(place - anchor) < max(high, 6)] or beyond


def fits(drawn, expected):
    """Whether just these outcomes were drawn, as often as their probabilities say."""
    assert set(drawn) == set(expected) and sum(expected.values()) == 1
    total = sum(drawn.values())
    return chisquare([drawn[key] for key in expected], [float(share * total) for share in expected.values()]).pvalue > 1e-3


@pytest.mark.parametrize(("progress", "window"), WINDOWS)
@pytest.mark.parametrize("numbers", [range(40), range(0, 320, 8), [0, 1, 2, 9, 11, 12, 13, 20, 30, 31, 47]])
def test_every_allowed_frame_is_drawn_as_often_and_no_other(train, draw, numbers, progress, window):
    """Distances count kept frames: a clip of which every eighth frame is kept is like one of which all are."""
    model = build("ucl", train)
    model.progress, frames = progress, len(numbers)
    single = clips_of(numbers)
    drawn = model.pick(Clips(*(value.expand(20000, *value.shape[1:]) for value in single)), draw).tolist()
    anchors = allowed_anchors(frames)
    expected_positive, expected_negative = {}, {}
    for anchor in anchors:
        positives, negatives = allowed_positives(frames, anchor), allowed_negatives(frames, anchor, window)
        expected_positive |= {(anchor, other): Fraction(1, len(anchors) * len(positives)) for other in positives}
        expected_negative |= {(anchor, other): Fraction(1, len(anchors) * len(negatives)) for other in negatives}
    assert fits(Counter((row[0], row[1]) for row in drawn), expected_positive)
    assert fits(Counter((row[0], row[2]) for row in drawn), expected_negative)


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("step", [1, 8])
def test_no_anchor_is_its_own_positive_and_a_clip_long_enough_has_negatives(train, draw, progress, step):
    """All lengths at once. From nine kept frames on every anchor has a frame more than three away, in all of the run."""
    model = build("ucl", train)
    model.progress = progress
    window = [str(Fraction(edge).limit_denominator(10**9)) for edge in model.window()]
    numbers = [list(range(0, step * frames, step)) for frames in range(1, 61)]
    for _ in range(15):
        for own, row in zip(numbers, model.pick(clips_of(*numbers), draw).tolist(), strict=True):
            anchor, positive, *negatives = row
            assert anchor in allowed_anchors(len(own)) and len(negatives) == 3
            assert positive in (allowed_positives(len(own), anchor) or [anchor]) and (positive != anchor or len(own) == 1)
            assert set(negatives) <= set(allowed_negatives(len(own), anchor, window) or [anchor])
            assert anchor not in negatives or len(own) < 9


def test_clips_too_short_to_serve_are_counted_in_a_warning(workspace, monkeypatch, capsys):
    """In a clip of seven frames the anchor may be the middle one, which has three frames on either side; eight are enough."""
    for short, said in ((1, False), (2, True)):
        folder = workspace / str(short)
        folder.mkdir()
        monkeypatch.chdir(folder)
        train = clip_sets(folder, [(7, "", "train")] * short + [(8, "", "train")] * (10 - short))[0]
        build("ucl", train)
        out = capsys.readouterr().out
        assert (f"warning: {short} of 10 training clips" in out) == said and bool(out) == said


def test_negatives_of_the_own_clip_count_when_the_curriculum_says(train, draw):
    """Before that they are encoded for the bank only."""
    model = build("ucl", train, intra_from=0.25, positive_range=1)
    frames, clips = next(iter(train.batches(8, model.pick, draw)))
    present = model.differs(clips)[:, 1:]
    assert present.any() and not present.all()
    for progress, count in [(0.0, False), (0.2499, False), (0.25, True), (1.0, True)]:
        model.progress = progress
        assert torch.equal(model.counted(clips), present & count)
        assert model.pick(train.clips, draw).shape == (len(train), 5)


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
def test_the_cross_negative_equals_the_loop_and_passes_over_own_entries(train, draw, mined):
    model = build("ucl", train, cross_mined=mined, bank_size=24, embedding_width=5).double()
    query, clip = unit_rows(6, 5, draw), torch.tensor([0, 1, 2, 3, 0, 9])
    bank, owners = unit_rows(24, 5, draw), torch.arange(24) % 5 - 1
    for place, own in enumerate(clip[:4]):          # the nearest entry of all is the clip's own
        bank[place], owners[place] = query[place], own
    found, mined_from = model.cross_negative(query, clip, bank, owners)
    for ours, one, own in zip(found, query, clip.tolist(), strict=True):
        assert torch.allclose(ours, cross_negative_loop(one, bank, owners.tolist(), own, mined, 0.07), atol=1e-12)
    assert not (mined_from["mined_clip"] == clip[:, None]).any()
    assert torch.allclose(mined_from["mined_share"].sum(1), torch.ones(6).double())


def test_fewer_entries_of_other_clips_than_are_mined_are_all_taken(train, draw):
    model = build("ucl", train, cross_mined=4, bank_size=6, embedding_width=5).double()
    query, bank, owners = unit_rows(3, 5, draw), unit_rows(6, 5, draw), [7, 7, 2, 7, 3, 7]
    found, _ = model.cross_negative(query, torch.tensor([7, 7, 7]), bank, torch.tensor(owners))
    for ours, one in zip(found, query, strict=True):
        assert torch.allclose(ours, cross_negative_loop(one, bank, owners, 7, 4, 0.07), atol=1e-12)


NUMBERS = [[30, 32, 50, 12, 55], [10, 12, 30, 10, 10], [7, 8, 7, 7, 7], [20, 20, 40, 1, 39], [5, 6, 20, 9, 30]]


@pytest.mark.parametrize(("batch", "progress"), [(1, 0.5), (3, 0.5), (5, 0.5), (5, 0.0)])
def test_the_loss_equals_the_equation(train, draw, batch, progress):
    """Rows 1 and 2 lack two and all three negatives, row 3 the positive. Negatives count from progress 0.167 on.

    The bank has the negatives of the step, the latest in place of the oldest. Views are drawn again from the same state.
    """
    model = build("ucl", train, embedding_width=6, bank_size=20, cross_mined=2).double().eval()
    model.progress = progress
    for parameter in model.key_encoder.parameters():        # so that it matters which encoder sees a frame
        parameter.add_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * 0.02)
    model.bank.clip.copy_(torch.arange(20) % 6)
    clips = clips_of(*([number] for number in range(batch)))._replace(number=torch.tensor(NUMBERS)[:batch])
    frames = torch.rand(batch, 5, 1, 32, 32, generator=draw, dtype=torch.float64)
    state = draw.get_state()
    loss, terms = model.loss(frames, clips, draw)

    views = model.views.normalise(model.views(frames.flatten(0, 1), draw.set_state(state))).unflatten(0, (batch, -1))
    encode = lambda frames: F.normalize(model.projection_head(model.backbone(frames)), dim=1).detach()  # noqa: E731
    queries = [encode(torch.cat([own[:1], own[2:]])) for own in views]
    bank, owners = list(model.bank.embedding), model.bank.clip.tolist()
    for place, (own, z) in enumerate((own, z) for own, query in enumerate(queries) for z in query[1:]):
        bank[place], owners[place] = z, own
    total, counting = 0.0, 0
    for clip, (own, numbers) in enumerate(zip(views, clips.number.tolist(), strict=True)):
        query, *negatives = queries[clip]
        positive = F.normalize(model.key_encoder.encoder(own[1:2]), dim=1)[0]
        negatives = [z for z, number in zip(negatives, numbers[2:], strict=True) if number != numbers[0] and progress]
        negatives.append(cross_negative_loop(query, bank, owners, clip, 2, 0.07))
        weight = math.exp(float(query @ positive) / 0.07)
        if numbers[1] != numbers[0]:
            total -= math.log(weight / (weight + sum(math.exp(float(query @ z) / 0.07) for z in negatives)))
            counting += 1
    assert loss.item() == pytest.approx(total / counting, rel=1e-7)     # the views' grid is single precision at best
    assert terms["frame_distance"].tolist() == [abs(own[1] - own[0]) for own in NUMBERS[:batch]]
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.trained())


def test_in_the_smallest_bank_every_clip_finds_an_entry_of_another_one(train, draw):
    model = build("ucl", train, bank_size=4, cross_mined=1).train()
    frames, clips = next(iter(train.batches(2, model.pick, draw)))
    loss, terms = model.loss(frames, clips, draw)
    assert loss.isfinite() and not (terms["mined_clip"] == clips.index[:, None]).any()


def test_a_batch_of_single_frames_has_nothing_to_learn_from(train, draw):
    model = build("ucl", train).eval()
    clips = clips_of([0], [0], [0])._replace(number=torch.full((3, 5), 4))
    loss, _ = model.loss(torch.rand(3, 5, 1, 32, 32, generator=draw), clips, draw)
    loss.backward()
    assert loss.item() == 0 and all((parameter.grad == 0).all() for parameter in model.trained())


def test_the_bank_and_the_key_encoder_move_in_after_step_only(train, draw):
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
    assert {"bank.embedding", "bank.clip", "bank.next"} < moved()
    assert model.bank.clip[:15].tolist() == clips.index.repeat_interleave(3).tolist() and model.bank.clip[15:].eq(-1).all()
    assert torch.equal(model.bank.embedding[:15], model.latest[0]) and model.bank.next == 15
    trained, key = model.projection_head[0].weight, model.key_encoder.encoder[1][0].weight
    assert torch.allclose(key, 0.999 * (trained - 1) + 0.001 * trained, atol=1e-6)


@pytest.mark.parametrize("scale", [[0.766, 0.766]])
def test_the_published_views_are_shifts(train, draw, scale):
    """A window of one size at any place: nothing is zoomed more than anything else."""
    views = build("ucl", train).views
    boxes = views.draw(2000, (64, 64), draw)["boxes"]
    assert boxes[:, 2:].eq(56).all() and sorted(set(boxes[:, 0].tolist())) == list(range(9))


@pytest.mark.parametrize(
    ("key", "value"),
    [("cross_mined", 300), ("bank_size", 3), ("positive_range", 0), ("intra_from", 0.6), ("far_window", [0.4, 0.2]),
     ("near_window", [0.1]), ("anchor_window", [0.2, 1.5])],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_by_name(train, key, value):
    with pytest.raises(UserError, match=rf"methods\.ucl.*{key}"):
        build("ucl", train, **{key: value})
