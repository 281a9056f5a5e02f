"""IVPP: pairs, their weights and the three objectives against METHODS (VanBerlo et al. 2024)."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from test_methods import BLOCKS, build, clip_sets
from test_ucl import clips_of

from stages.lib.params import UserError
from stages.lib.pretraining.clip_set import Clips
from stages.lib.pretraining.losses import barlow_twins, nt_xent_terms, vicreg

OBJECTIVES = ["simclr", "vicreg", "barlow_twins"]


@pytest.fixture
def train(workspace):
    return clip_sets(workspace)[0]


def small(train, objective, **change):
    """The method with heads as narrow as they need be, and some settings of the objective changed."""
    blocks = {name: BLOCKS["ivpp"][name] | {"embedding_width": 8} for name in OBJECTIVES}
    blocks[objective] |= change
    return build("ivpp", train, objective=objective, **blocks)


@pytest.mark.parametrize("numbers", [range(0, 96, 8), range(45), [0, 1, 5, 30, 38, 80]])
def test_the_second_frame_is_another_one_uniform_among_those_near_enough(train, draw, numbers):
    model, numbers = small(train, "simclr"), list(numbers)
    clips = Clips(*(value.expand(40000, *value.shape[1:]) for value in clips_of(numbers)))
    pairs, counts = np.unique(np.array(numbers)[model.pick(clips, draw).numpy()], axis=0, return_counts=True)
    expected = {}
    for first in numbers:
        near = [other for other in numbers if 0 < abs(other - first) <= int(1.5 * 25)] or [first]
        expected |= {(first, other): 40000 / len(numbers) / len(near) for other in near}
    assert [tuple(pair) for pair in pairs.tolist()] == sorted(expected)
    assert chisquare(counts, [expected[key] for key in sorted(expected)]).pvalue > 1e-3


def test_a_clip_without_a_frame_near_enough_or_of_unknown_rate_gives_one_frame_twice(train, draw):
    model = small(train, "simclr")
    clips = clips_of([0], [0, 38, 76], range(30), range(30))
    clips.fps[2] = math.nan
    seen = set()
    for _ in range(40):
        first, second = model.pick(clips, draw).T
        assert (first == second).tolist() == [True, True, True, False]
        seen |= {int(first[1])}
    assert seen == {0, 1, 2}


def test_clips_without_two_frames_near_enough_are_counted_in_a_warning(workspace, monkeypatch, capsys):
    """Frames of these clips are 0.04 s apart; stills have one."""
    for stills, max_gap_s, without in ((1, 0.04, 0), (2, 0.04, 2), (2, 0.03, 10), (10, 0.04, 10)):
        folder = workspace / f"{stills} {max_gap_s}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        train = clip_sets(folder, [(1, "", "train")] * stills + [(4, "", "train")] * (10 - stills))[0]
        small(train, "vicreg", max_gap_s=max_gap_s)
        out = capsys.readouterr().out
        assert f"warning: {without} of 10 training clips have no two kept frames within methods.ivpp.vicreg.max_gap_s" in out \
            if without else not out


@pytest.mark.parametrize("max_gap_s", [0.5, 1.5, 3.0, 0.7])
def test_the_longest_distance_is_whole_frames_and_0_for_an_unknown_rate(train, max_gap_s):
    model, rates = small(train, "simclr", max_gap_s=max_gap_s), [25.0, 30.0, 12.5, 29.97, 60.0]
    clips = clips_of(*[[0]] * (len(rates) + 1))._replace(fps=torch.tensor([*rates, math.nan]))
    assert model.max_gap(clips).tolist() == [int(max_gap_s * fps) for fps in rates] + [0]


def test_the_weight_of_a_pair_follows_the_formula(train):
    """D is 37 at 25 frames a second; the last pair has an unknown rate, and so the same frame twice."""
    pairs = [(4, 4), (0, 1), (20, 11), (0, 37), (50, 13), (3, 3)]
    clips = clips_of(*[[0]] * 6)._replace(fps=torch.tensor([25.0] * 5 + [math.nan]), number=torch.tensor(pairs))
    expected = [(37 - abs(one - other) + 1) / (37 + 1) for one, other in pairs[:5]] + [1.0]
    assert expected[0] == 1 and expected[3] == expected[4] == 1 / 38
    assert small(train, "simclr").pair_weight(clips).tolist() == pytest.approx(expected, rel=1e-6)


@torch.no_grad()
def embeddings_and_loss(model, draw):
    model.double().eval()
    clips = clips_of(*[[0]] * 5)._replace(number=torch.tensor([[3, 9], [0, 0], [20, 8], [1, 2], [7, 14]]))
    clips.fps[1] = math.nan
    frames = torch.rand(5, 2, 1, 32, 32, generator=draw, dtype=torch.float64)
    state = draw.get_state()
    loss, terms = model.loss(frames, clips, draw)
    views = model.views.normalise(model.views(torch.cat([frames[:, 0], frames[:, 1]]), draw.set_state(state)))
    left, right = model.projection_head(model.backbone(views)).chunk(2)
    return left, right, model.pair_weight(clips).double(), loss.item(), terms


@pytest.mark.parametrize("weighted", [True, False])
def test_simclr_is_nt_xent_with_the_weights(train, draw, weighted):
    model = small(train, "simclr", weighted=weighted, temperature=0.3)
    left, right, weight, loss, terms = embeddings_and_loss(model, draw)
    left, right = F.normalize(left, dim=1), F.normalize(right, dim=1)
    terms_of_pairs = nt_xent_terms(left, right, 0.3)
    plain, with_weights = float(terms_of_pairs.mean()), sum((weight * terms_of_pairs).tolist()) / 5     # by B, not by Σ w
    assert abs(plain - with_weights) > 1e-6
    assert loss == pytest.approx(with_weights if weighted else plain, abs=1e-9)
    assert torch.equal(terms["weight"], weight if weighted else torch.ones_like(weight))
    assert terms["frame_distance"].tolist() == [6, 0, 12, 1, 7]


@pytest.mark.parametrize("weighted", [True, False])
def test_vicreg_has_the_weights_on_its_invariance(train, draw, weighted):
    model = small(train, "vicreg", weighted=weighted, invariance_weight=7.0, variance_weight=5.0, covariance_weight=3.0)
    left, right, weight, loss, _ = embeddings_and_loss(model, draw)
    plain, with_weights = (float(vicreg(left, right, 7.0, 5.0, 3.0, given)) for given in (None, weight))
    assert abs(plain - with_weights) > 1e-9
    assert loss == pytest.approx(with_weights if weighted else plain, rel=1e-10)


def test_barlow_twins_is_unweighted_and_divided_by_the_width(train, draw):
    left, right, _, loss, terms = embeddings_and_loss(small(train, "barlow_twins", off_diagonal_weight=0.01), draw)
    assert left.shape == (5, 8)
    assert loss == pytest.approx(float(barlow_twins(left, right, 0.01)) / 8, rel=1e-10)
    assert terms["weight"].tolist() == [1.0] * 5


@pytest.mark.parametrize("chosen", OBJECTIVES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_key_too_many_or_missing_in_any_objective_is_named(train, chosen, name):
    """Also in a block that is not used: a slip there would wait for whoever uses it."""
    blocks = {key: BLOCKS["ivpp"][key] for key in OBJECTIVES}
    few = {key: value for key, value in blocks[name].items() if key != "max_gap_s"}
    wrong = ((blocks[name] | {"colour": 1}, rf"methods\.ivpp\.{name}\.colour is not"), (few, "max_gap_s is missing"))
    for block, sentence in wrong:
        with pytest.raises(UserError, match=sentence) as error:
            build("ivpp", train, objective=chosen, **blocks | {name: block})
        assert "\n" not in str(error.value)


def test_an_unknown_objective_is_answered_with_the_choices(train):
    with pytest.raises(UserError, match=r"methods\.ivpp\.objective is 'byol'; it must be 'simclr', 'vicreg' or 'barlow_twins'"):
        build("ivpp", train, objective="byol")


@pytest.mark.parametrize("choice", ["simclr.temperature", "vicreg.max_gap_s", "barlow_twins.embedding_width"])
def test_a_zero_of_the_used_objective_is_named(train, choice):
    objective, key = choice.split(".")
    with pytest.raises(UserError, match=rf"methods\.ivpp\.{objective}\.{key} is 0"):
        small(train, objective, **{key: 0})


@pytest.mark.parametrize("value", [None, "half a second", [1]])
def test_a_value_of_another_type_in_a_sub_block_is_named(train, value):
    with pytest.raises(UserError, match=r"methods\.ivpp\.simclr\.max_gap_s"):
        small(train, "simclr", max_gap_s=value)
