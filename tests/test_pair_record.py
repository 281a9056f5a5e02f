"""What is pictured is what enters the encoders; of which clips and frames; which clips are chosen."""

import copy
import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from test_methods import BLOCKS, METHODS, build, clip_sets

from stages.lib.clips import store
from stages.lib.networks.backbone import Backbone
from stages.lib.pretraining import pairs
from stages.lib.training.optimizer import optimizer_and_schedule

LENGTHS = [20, 30, 25, 40, 16, 22, 35, 28]
CLIPS = [(frames, label, "train") for frames, label in zip(LENGTHS, ["a", "b", "", "a"] * 2, strict=True)]
CLIPS += [(9, "a", "held_out"), (8, "", "held_out")]
BOTH = ["anchor", "positive"]
MIXED = ["left", "right"]
QUERIED = {"uscl": MIXED, "meta_uscl": MIXED, "supervised": ["view"], "moco_v2": ["anchor"], "cycle_contrast": ["anchor"],
           "ucl": ["anchor", "negative 1", "negative 2", "negative 3"]}     # by the backbone; others: both views
KEYED = {"byol": BOTH, "moco_v2": ["positive"], "cycle_contrast": ["positive"], "ucl": ["positive"]}     # by the key encoder
STILL = {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "flip_probability": 0.0, "brightness": 0.0, "contrast": 0.0,
         "blur_probability": 0.0, "solarize_probability": 0.0}


@pytest.fixture
def sets(workspace):
    return clip_sets(workspace, CLIPS)


def made(name, sets, **change):
    """The method at the end of its run; UCL with a window that these clips have frames in."""
    change = ({"near_window": [0.2, 0.4]} if name == "ucl" else {}) | change
    model = build(name, *sets, **change)
    model.progress = 1.0
    return model


def still(name):
    """Views that leave a frame as it is."""
    return {"views": BLOCKS[name]["views"] | STILL}


def listening(model):
    """Grey values of what enters the backbone and its copies in key encoders, as it goes on: two lists of [N, 1, H, W]."""
    queried, keyed = [], []
    for name, part in model.named_modules():
        if isinstance(part, Backbone):
            into = keyed if name.startswith("key_") else queried
            part.register_forward_pre_hook(lambda _, given, into=into: into.append(given[0].detach().flatten(0, -4)))
    return queried, keyed


def pictures_of(images):
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("name", METHODS)
def test_a_training_step_takes_its_views_from_step_views(name, sets, draw):
    """Bit for bit, in both encoders; of Meta-USCL the first pass, those after it are of the meta set."""
    model = made(name, sets).train()
    optimizer, _ = optimizer_and_schedule(model.trained(), 10, **BLOCKS[name]["optimizer"])
    frames, clips = next(iter(sets[0].batches(4, model.pick, draw)))
    state = draw.get_state()
    views = model.step_views(frames, clips, draw)
    queried, keyed = listening(model)
    draw.set_state(state)
    model.before_step(frames, clips, optimizer, draw)
    model.loss(frames, clips, draw)
    for entered, roles in ((queried, QUERIED.get(name, BOTH)), (keyed, KEYED.get(name, []))):
        expected = [model.views.normalise(views[role].grey) for role in roles]
        assert pictures_of(torch.cat(entered[:1] or [torch.empty(0)])) == pictures_of(torch.cat(expected or [torch.empty(0)]))


@pytest.mark.parametrize("name", METHODS)
def test_the_pictures_are_what_enters_the_encoders(name, sets, draw, monkeypatch):
    """All eight clips are pictured: each image that enters is one of the pictures of its roles, and the other way round."""
    model = made(name, sets)
    monkeypatch.setattr(model, "curriculum", dict)      # the end of the run alone
    queried, keyed = listening(model)
    pictures, table = pairs.pictures(model, sets[0], draw)
    table = table[table["choice"] == "spread"]
    assert table["example"].nunique() == 8
    own = {"uscl": ["first", "third"]}.get(name, QUERIED.get(name, BOTH))       # USCL's pair without mixing, outside training
    for entered, roles in ((queried, own), (keyed, KEYED.get(name, []))):
        ours = torch.tensor(pictures[table.index[table["role"].isin(roles)]]).float().flatten(1)
        assert len(ours) == 8 * len(roles) and len(entered) >= (len(ours) > 0)
        if roles:
            grey = torch.cat(entered) * model.views.std + model.views.mean
            apart = torch.cdist(ours, 255 * grey.flatten(1), p=math.inf)
            assert apart.min(0).values.max() < 0.51 and apart.min(1).values.max() < 0.51


@pytest.mark.parametrize("name", METHODS)
def test_clip_frames_and_mix_are_those_of_the_picture(name, sets, draw):
    """Without augmentation every picture is Σ mix · frame, of frames read from the store by clip and number."""
    model = made(name, sets, **still(name))
    if name == "ucl":
        model.bank.clip.copy_(torch.arange(len(model.bank.clip)) % 8)
    pictures, table = pairs.pictures(model, sets[0], draw)
    data = store.read("us4")
    rows = data.frame_table.set_index(["clip", "frame"])["row"]
    assert len(pictures) == len(table) and pictures.dtype == np.uint8
    assert set(table["role"]) >= {*QUERIED.get(name, BOTH), *KEYED.get(name, [])}
    mixtures = 0
    for picture, line in zip(pictures, table.itertuples(), strict=True):
        numbers, shares = map(int, line.frames.split()), [float(share) for share in line.mix.split()]
        mixtures += len(shares) > 1
        assert sum(shares) == pytest.approx(1, abs=0.002)
        own = [data.frames[rows[line.clip, number]].astype(float) for number in numbers]
        expected = sum(share * frame for share, frame in zip(shares, own, strict=True))
        assert np.abs(picture - expected).max() < 1.1
    assert (mixtures > 0) == (name in ("uscl", "meta_uscl"))


def test_inner_mixing_is_described_with_all_of_its_frames(sets, draw):
    model = made("meta_uscl", sets, mixing="inner", mixing_frames=4, **still("meta_uscl"))
    pictures, table = pairs.pictures(model, sets[0], draw)
    first = table[table["example"] == 0].set_index("role")
    alone = {role: float(pictures[row].mean()) for row, role in zip(range(6), first.index, strict=True)}
    for side in MIXED:
        assert first.loc[side, "frames"].split() == [first.loc[f"original {n}", "frames"] for n in (1, 2, 3, 4)]
        shares = map(float, first.loc[side, "mix"].split())
        assert alone[side] == pytest.approx(sum(s * alone[f"original {n + 1}"] for n, s in enumerate(shares)), abs=1)


@pytest.mark.parametrize("name", ["ucl", "ivpp", "cycle_contrast"])
def test_the_distance_is_that_of_the_pictured_frames(name, sets, draw):
    _, table = pairs.pictures(made(name, sets), sets[0], draw)
    for _, lines in table.groupby("example"):
        frame = lines[lines["role"] != "cross-video negative"].set_index("role")["frames"].astype(int)
        assert (lines["frame_distance"] == abs(frame["positive"] - frame["anchor"])).all()
        if name == "ucl":
            far = [abs(frame[f"negative {n}"] - frame["anchor"]) for n in (1, 2, 3)]
            assert lines["negative_frame_distance"].to_numpy() == pytest.approx(np.mean(far), abs=1e-5)


def test_what_a_short_clip_lacks_is_not_pictured(workspace, draw):
    """Three frames have no negative, one frame has no positive either; of 30 frames there are three negatives."""
    sets = clip_sets(workspace, [(3, "", "train"), (30, "", "train"), (1, "", "train")])
    model = made("ucl", sets)
    model.intra_from = 0.4
    _, table = pairs.pictures(model, sets[0], draw)
    roles = table[table["role"] != "cross-video negative"].groupby("example")["role"].apply(list)
    assert roles.tolist() == [BOTH, BOTH + ["negative 1", "negative 2", "negative 3"], ["anchor"]] * 2


def test_frames_of_both_halves_of_a_curriculum_are_pictured(sets, draw):
    """Negatives lie in the window of their half; other clips are mined from the bank of the end, and for that half alone."""
    _, table = pairs.pictures(made("ucl", sets, far_window=[0.4, 0.5], near_window=[0.2, 0.38]), sets[0], draw)
    counts = table[table["role"] == "anchor"]["choice"].value_counts()
    assert counts.to_dict() == {"halfway": 4, "spread": 8} and table["choice"].iloc[0] == "halfway"
    assert set(table.loc[table["role"] == "cross-video negative", "choice"]) <= {"spread"}
    length = dict(zip(sets[0].table["clip"], LENGTHS, strict=True))
    for choice, (low, high) in {"halfway": (0.4, 0.5), "spread": (0.2, 0.38)}.items():
        lines = table[(table["choice"] == choice) & table["role"].str.startswith("negative")]
        anchors = table[table["role"] == "anchor"].set_index("example")["frames"].astype(int)
        share = (lines["frames"].astype(int) - lines["example"].map(anchors)).abs() / lines["clip"].map(length)
        assert len(share) > 3 and share.between(low, high, inclusive="left").all()
    assert table["example"].is_monotonic_increasing and table["example"].nunique() == 12


def test_cross_video_negatives_are_the_clips_of_the_nearest_keys(sets, draw, monkeypatch):
    """Against a loop over the queue; keys of one clip count together, random ones of no clip are not pictured."""
    model = made("ucl", sets, bank_size=48, embedding_width=5, cross_mined=6)
    monkeypatch.setattr(model, "curriculum", dict)      # the end of the run alone
    model.bank.clip.copy_(torch.arange(48) % 5 - 1)
    state = draw.get_state()
    _, table = pairs.pictures(model, sets[0], draw)
    draw.set_state(state)
    frames, clips = sets[0].batch(torch.arange(8), model.pick, draw)
    anchor, _, *negatives = model.step_views(frames, clips, draw).values()
    entered = model.normalised(anchor, *negatives, dim=1).flatten(0, 1)         # anchor and negatives, one pass as in the loss
    with torch.no_grad():
        projections = model.projection_head(model.train().backbone(entered))
    embeddings = torch.nn.functional.normalize(projections, dim=1).unflatten(0, (8, 4))
    queries, latest = embeddings[:, 0], embeddings[:, 1:].flatten(0, 1)
    bank = [*latest, *model.bank.embedding[24:]]        # the 24 negatives of the step stand in the first places
    owners = [*clips.index.repeat_interleave(3).tolist(), *model.bank.clip[24:].tolist()]
    names = store.read("us4").clip_table["clip"]
    for clip, query in enumerate(queries):
        keys = [(float(query @ key), owner) for key, owner in zip(bank, owners, strict=True)]
        nearest = sorted((key for key in keys if key[1] != clip), reverse=True)[:6]
        total = sum(math.exp(likeness / 0.07) for likeness, _ in nearest)
        expected = Counter()
        for likeness, owner in nearest:
            expected[names[owner] if owner >= 0 else None] += math.exp(likeness / 0.07) / total
        expected.pop(None, None)
        lines = table[(table["example"] == clip) & (table["role"] == "cross-video negative")]
        found = dict(zip(lines["clip"], lines["share"], strict=True))
        middles = [str(sets[0].table.set_index("clip")["frames"][name] // 2) for name in lines["clip"]]
        assert lines["frames"].tolist() == middles
        assert found == pytest.approx(dict(expected), abs=6e-4) and lines["share"].is_monotonic_decreasing


def test_the_pairs_that_weigh_least_and_most_are_pictured(sets, draw):
    """Against the weight network on all of the clips; each with its own weight and distance."""
    model = made("meta_uscl", sets)
    with torch.no_grad():
        model.weight_network[2].weight.mul_(30)
    state = draw.get_state()
    _, table = pairs.pictures(model, sets[0], draw)
    draw.set_state(state)
    frames, clips = sets[0].batch(torch.arange(8), model.pick, draw)
    with torch.no_grad():
        weights = model.weight(model.train()(model.pairs(frames, clips, draw))[0])
    names = store.read("us4").clip_table["clip"][:8]
    expected = pd.DataFrame({"clip": names, "weight": weights, "frame_distance": (clips.number[:, -1] - clips.number[:, 0])})
    expected = expected.sort_values("weight")
    found = table[["example", "choice", "clip", "weight", "frame_distance"]].drop_duplicates()
    for choice, part in {"lowest_weight": expected[:3], "highest_weight": expected[:-4:-1]}.items():
        ours = found[found["choice"] == choice]
        for name in ("clip", "frame_distance"):
            assert ours[name].tolist() == part[name].tolist()
        assert ours["weight"].to_numpy() == pytest.approx(part["weight"].to_numpy(), abs=1e-6)
    assert (table["choice"] == "spread").sum() == 8 * 5 and len(table) == 14 * 5


@pytest.mark.parametrize("name", METHODS)
def test_nothing_of_the_model_or_of_other_random_streams_changes(name, sets, draw):
    model = made(name, sets)
    before, stream = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    pictures = [pairs.pictures(model, sets[0], torch.Generator().manual_seed(3))[0] for _ in range(2)]
    assert np.array_equal(*pictures) and torch.equal(stream, torch.get_rng_state())
    assert not any(part.training for part in model.modules())
    assert all(part.track_running_stats for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) if torch.is_tensor(value) else str(value) == str(before[key]), key


@pytest.mark.parametrize(("clips", "most"), [([1], 8), ([30], 8), ([2, 40, 7], 8), ([5] * 12, 8), ([100, 3, 50, 9], 64)])
def test_chosen_clips_are_spread_over_the_sources(clips, most):
    """As many of each source (one at least, all where there are fewer); every stretch of a source's clips has one."""
    sources = pd.Series(np.random.default_rng(0).permutation(np.repeat([f"s{n}" for n in range(len(clips))], clips)))
    chosen = pairs.spread(sources, most)
    assert len(chosen) == len(set(chosen)) <= max(most, len(clips))
    each = max(1, most // len(clips))
    for number, count in enumerate(clips):
        places = [place for place, name in enumerate(sources) if name == f"s{number}"]
        taken = sorted(places.index(place) for place in chosen if sources[place] == f"s{number}")
        assert len(taken) == min(each, count)
        assert [int(place * len(taken) / count) for place in taken] == list(range(len(taken)))


def test_the_length_of_a_recording_is_from_its_first_to_its_last_frame(sets, tmp_path):
    data = store.read("us4")
    data.frame_table["frame"] = data.frame_table["frame"] * 3 + 5
    record = [{"epoch": 2, "index": torch.tensor([3, 0]), "frame_distance": torch.tensor([4, 5])}]
    pairs.write(tmp_path / "pairs", record, (np.zeros((0, 4, 4), np.uint8), pd.DataFrame(columns=["clip"])), data)
    table = pd.read_csv(tmp_path / "pairs/pairs.csv")
    assert list(table)[:5] == pairs.FIRST and table["clip"].tolist() == ["source/3.mp4", "source/0.mp4"]
    assert table["clip_frames"].tolist() == [3 * 39 + 1, 3 * 19 + 1] and table["frame_distance"].tolist() == [4, 5]
    assert sorted(path.name for path in (tmp_path / "pairs").iterdir()) == ["pairs.csv", "views.csv", "views.npy"]
