"""The leak guard: hashes against loops over pixels and scipy's DCT, what leaves a distance small, and what copies lead to."""

import itertools
import math

import cv2
import numpy as np
import pandas as pd
import pytest
import scipy.fft
from conftest import write_frame_store

from stages.lib.clips import copies, matching
from stages.lib.clips.hashes import _waves, hashes
from stages.lib.params import UserError

LIMIT = copies.Limits(clips=0.25, stills=0.15)


def recording(seed, frames=9, size=64):
    """A fan of speckle that drifts and breathes: uint8 [frames, size, size]."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.normal(size=(2 * size, 2 * size)), (0, 0), 2.5)
    texture = cv2.GaussianBlur(texture, (0, 0), 1) / texture.std()
    y, x = np.mgrid[:size, :size] / size
    fan = np.abs(x - 0.5) < 0.2 + 0.3 * y
    clip = []
    for t in range(frames):
        down, right = round(size / 4 + 4 * math.sin(t)), round(size / 8 + 2 * t)
        scene = texture[down : down + size, right : right + size]
        clip.append(((90 + 30 * scene) * (1.1 - 0.7 * y)).clip(8, 255) * fan)
    return np.stack(clip).astype(np.uint8)


def through(change):
    """The function that changes a clip frame by frame, and rounds."""
    return lambda clip: np.stack([np.asarray(change(frame)).clip(0, 255).astype(np.uint8) for frame in clip])


def jpeg(frame):
    return cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_GRAYSCALE)


def in_fan(change):
    """A change of grey values; extraction finds the fan again and blackens what is outside."""
    return through(lambda frame: change(frame) * (frame > 0))


CHANGES = {
    "none": lambda clip: clip,
    "re-encoded": in_fan(jpeg),
    "enlarged": through(lambda frame: cv2.resize(frame, None, fx=1.5, fy=1.5)),
    "halved": through(lambda frame: cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
    "large": through(lambda frame: cv2.resize(frame, None, fx=4, fy=4)),
    "cropped": through(lambda frame: cv2.resize(frame[3:-3, 3:-3], (64, 64))),
    "in a margin": through(lambda frame: np.pad(frame, 8)),
    "stretched": through(lambda frame: cv2.resize(frame, None, fx=0.8, fy=1)),
    "more contrast": in_fan(lambda frame: (frame - frame.mean()) * 1.2 + frame.mean()),
    "less contrast": in_fan(lambda frame: (frame - frame.mean()) * 0.8 + frame.mean()),
    "brighter": in_fan(lambda frame: frame * 1.2),
    "mirrored": lambda clip: clip[:, :, ::-1],
    "every second frame": lambda clip: clip[::2],
    "backwards": lambda clip: clip[::-1],
    "every frame twice": lambda clip: clip.repeat(2, 0),
    "an excerpt": lambda clip: clip[3:7],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_near_and_other_clips_are_not(change):
    copy, others = CHANGES[change](recording(0)), [recording(seed) for seed in range(4)]
    near = matching.near([hashes(copy)], [hashes(clip) for clip in others], LIMIT)
    assert near["other"].tolist() == [0]
    assert change != "none" or near["distance"].tolist() == [0]


def reference(frame, lit):
    """The cosine coefficients of one frame, by loops over its pixels and frequencies."""
    height, width = frame.shape
    contrast, deviation = np.zeros((2, height, width))
    for values, result in ((frame, contrast), (None, deviation)):
        for i, j in np.argwhere(lit):
            weight = np.array([[lit[y, x] * math.exp(-((16 * (i - y) / height) ** 2 + (16 * (j - x) / width) ** 2) / 2)
                                for x in range(width)] for y in range(height)])
            mean = (weight * (contrast**2 if values is None else values)).sum() / weight.sum()
            result[i, j] = math.sqrt(mean) if values is None else frame[i, j] - mean
    normalised = contrast / (deviation + 5)
    places = []
    for axis, side in ((1, height), (0, width)):
        strength, at = np.abs(contrast).sum(axis=axis), np.arange(side) + 0.5
        centre = np.average(at, weights=strength)
        reach = 2 * math.sqrt(np.average((at - centre) ** 2, weights=strength))
        places.append([(place - centre + reach) / (2 * reach) for place in at])
    coefficients = np.zeros((16, 16))
    for y, down in enumerate(places[0]):
        for x, right in enumerate(places[1]):
            if 0 < down < 1 and 0 < right < 1:
                window = math.sin(math.pi * down) * math.sin(math.pi * right)
                for k in range(16):
                    for m in range(16):
                        wave = math.cos(math.pi * k * down) * math.cos(math.pi * m * right)
                        coefficients[k, m] += normalised[y, x] * window * wave
    return coefficients.ravel()[1:]


def test_hashes_are_those_of_loops_over_pixels():
    clip = through(lambda frame: cv2.resize(frame, (24, 20), interpolation=cv2.INTER_AREA))(recording(3, frames=2))
    clip[:, :, 15:] = 0                                                         # off the centre
    lit = clip.max(axis=0) > 6
    for bits, frame in zip(hashes(clip), clip, strict=True):
        expected = reference(frame.astype(float), lit)
        clear = np.abs(expected) > 1e-3
        assert clear.mean() > 0.95
        np.testing.assert_array_equal(bits[clear], np.sign(expected[clear]))


def test_a_frame_of_square_blocks_has_the_hash_of_the_small_one():
    clip = recording(2, frames=3)
    np.testing.assert_array_equal(hashes(clip.repeat(4, 1).repeat(4, 2)), hashes(clip))


def test_in_a_window_as_wide_as_the_frame_the_waves_are_scipys_dct():
    weight = np.zeros((1, 64))
    weight[0, [15, 48]], weight[0, [16, 47]] = 15.75, 16.25                     # their standard deviation is a quarter
    line = np.random.default_rng(0).normal(size=64)
    window = np.sin(np.pi * (np.arange(64) + 0.5) / 64)
    expected = scipy.fft.dct(line * window, type=2)[:16] / 2
    np.testing.assert_allclose(_waves(weight)[0] @ line, expected, atol=1e-4)


def clips_of(rng, counts):
    """Random hashes of clips of so many frames."""
    return [rng.choice([-1, 1], (count, 255)).astype(np.int8) for count in counts]


def double_loop(left, right):
    """The distance of two clips, frame by frame."""
    mirror = np.array([1 if place % 16 % 2 == 0 else -1 for place in range(1, 256)])

    def one_way(ours, theirs):
        best = [min(min((a != b).mean(), (a != b * mirror).mean()) for b in theirs) for a in ours]
        return float(np.median(best))

    return min(one_way(left, right), one_way(right, left)) if len(left) and len(right) else 1


def test_distances_are_those_of_a_double_loop():
    rng = np.random.default_rng(0)
    left, right = clips_of(rng, (4, 1, 0, 7)), clips_of(rng, (5, 0, 2))
    right[2][0] = left[0][2]
    for one, other in itertools.product(left, right):
        assert matching.distance(one, other) == pytest.approx(double_loop(one, other), abs=1e-6)


def all_pairs(left, right, limit):
    """Every clip with every other, by products of whole matrices: the near pairs with their distances, bit for bit."""
    even = np.arange(1, 256) % 2 == 0
    found = []
    for (one, a), (other, b) in itertools.product(enumerate(left), enumerate(right)):
        apart = np.float32(1)
        if len(a) and len(b):
            a, b = a.astype(np.float32), b.astype(np.float32)
            common = a[:, even] @ b[:, even].T + np.abs(a[:, ~even] @ b[:, ~even].T)
            share = (1 - common / 255) / 2
            apart = min(np.median(share.min(axis=1)), np.median(share.min(axis=0)))
        if apart <= (limit.stills if min(len(a), len(b)) < 3 else limit.clips):
            found.append((one, other, apart))
    return found


def near_copies(rng, clip):
    """Of a clip's hashes: some frames, in another order, with bits inverted, up to beyond what still counts as near."""
    frames = clip[rng.permutation(len(clip))[: rng.integers(1, len(clip) + 1)]]
    mirror = np.where(np.arange(1, 256) % 2, -1, 1) if rng.random() < 0.5 else 1
    inverted = rng.random(frames.shape) < rng.uniform(0, 0.3, (len(frames), 1))
    return (np.where(inverted, -frames, frames) * mirror).astype(np.int8)


@pytest.mark.parametrize("limit", [LIMIT, matching.Limits(clips=0.4, stills=0.0), matching.Limits(clips=0.1, stills=0.3)])
@pytest.mark.parametrize("sizes", [(128, 4096), (5, 7), (1, 1000)], ids=str)
def test_near_pairs_are_those_of_all_pairs(workspace, monkeypatch, limit, sizes):
    """Random clips, clips without hashes, copies of every degree; the frames that are compared at once change nothing."""
    monkeypatch.setattr(matching, "ROWS", sizes[0])
    monkeypatch.setattr(matching, "COLUMNS", sizes[1])
    rng = np.random.default_rng(3)
    left = clips_of(rng, rng.integers(0, 12, 25))
    right = clips_of(rng, rng.integers(0, 12, 10)) + [near_copies(rng, clip) for clip in left if len(clip)]
    expected = all_pairs(left, right, limit)
    assert 5 < len(expected) < len(left) * len(right) / 2
    assert list(matching.near(left, right, limit).itertuples(index=False, name=None)) == expected
    both = left + right
    expected = [pair for pair in all_pairs(both, both, limit) if pair[0] != pair[1]]
    assert list(matching.near_within(both, limit, "toy").itertuples(index=False, name=None)) == expected


def test_pairs_that_are_known_from_before_change_nothing(workspace, monkeypatch):
    """The list grows, shrinks, changes its order, and gets second clips of equal hashes."""
    monkeypatch.setenv("SONOPAIR_CACHE_GIB", "1")
    rng = np.random.default_rng(5)
    clips = clips_of(rng, rng.integers(0, 9, 12))
    clips += [near_copies(rng, clip) for clip in clips if len(clip)]
    compared = []
    near = matching.near
    monkeypatch.setattr(matching, "near", lambda left, right, limit: compared.append(len(left)) or near(left, right, limit))
    for _ in range(12):
        chosen = [clips[place] for place in rng.choice(len(clips), 14)]
        expected = [pair for pair in all_pairs(chosen, chosen, LIMIT) if pair[0] != pair[1]]
        assert list(matching.near_within(chosen, LIMIT, "toy").itertuples(index=False, name=None)) == expected
    assert compared[0] == 14 and 0 < np.mean(compared[1:]) < 12                     # the others were not compared again
    matching.near_within(clips[:5], LIMIT, "toy")
    matching.near_within(clips[4::-1], LIMIT, "toy")
    matching.near_within(clips[:5], matching.Limits(0.3, 0.3), "toy")
    assert compared[-2:] == [0, 5]


def test_pairs_of_clips_of_equal_hashes_are_not_counted_again(workspace, monkeypatch):
    """Two clips are the same and near a third one: the cache knows both pairs by the same hashes."""
    monkeypatch.setenv("SONOPAIR_CACHE_GIB", "1")
    clip, *_ = clips_of(np.random.default_rng(0), (4,))
    other = np.where(np.arange(255) < 5, -clip, clip)
    found = [matching.near_within([clip, clip, other], LIMIT, "toy").values.tolist() for _ in range(3)]
    assert len(found[0]) == 6 and found[1] == found[2] == found[0]


def test_hashes_from_the_cache_are_the_same(workspace, monkeypatch):
    monkeypatch.setenv("SONOPAIR_CACHE_GIB", "1")
    write_frame_store(workspace / "toy", [{"clip": name, "frames_kept": 3} for name in "abc"])
    frames = np.load(workspace / "toy/frames.npy")
    frames[3:5] = 80                                                                # without contrast
    np.save(workspace / "toy/frames.npy", frames)
    expected = [hashes(frames[first : first + 3]) for first in (0, 3, 6)]
    assert [len(bits) for bits in expected] == [3, 1, 3]
    first = copies.store_hashes(workspace / "toy", "abc")
    monkeypatch.setattr(copies, "hashes", None)
    second = copies.store_hashes(workspace / "toy", "cba")[::-1]
    for bits in zip(expected, first, second, strict=True):
        np.testing.assert_array_equal(bits[0], bits[1], strict=True)
        np.testing.assert_array_equal(bits[0], bits[2], strict=True)


def test_of_a_long_clip_thirty_frames_are_compared_evenly_spread_from_the_first_to_the_last(workspace):
    """So the time does not depend on the length of the clips."""
    write_frame_store(workspace / "toy", [{"clip": "long", "frames_kept": 59}, {"clip": "short", "frames_kept": 30}])
    frames = np.load(workspace / "toy/frames.npy")
    expected = hashes(frames[:59:2]), hashes(frames[59:])
    for bits, own in zip(expected, copies.store_hashes(workspace / "toy", ["long", "short"]), strict=True):
        np.testing.assert_array_equal(bits, own, strict=True)


@pytest.mark.parametrize("left", [[], [np.zeros((0, 255), np.int8)]])
def test_nothing_to_compare_gives_no_pair(workspace, left):
    right = clips_of(np.random.default_rng(0), (3, 1))
    found = [matching.near(left, right, LIMIT), matching.near(right, left, LIMIT), matching.near_within(left, LIMIT, "toy")]
    for pairs in found:
        assert pairs.empty and list(pairs) == ["one", "other", "distance"]


def test_the_nearest_is_the_first_of_those_that_are_equally_near():
    pairs = pd.DataFrame([(0, 3, 0.2), (0, 1, 0.1), (2, 9, 0.1), (2, 4, 0.1)], columns=["one", "other", "distance"])
    assert matching.nearest(pairs).values.tolist() == [[0, 1, 0.1], [2, 4, 0.1]]


def test_a_mirrored_frame_has_the_odd_horizontal_bits_inverted():
    clip = recording(1, frames=3)
    odd = np.arange(1, 256) % 16 % 2 == 1
    same = hashes(clip) == hashes(clip[:, :, ::-1])
    assert same[:, ~odd].mean() > 0.99 and same[:, odd].mean() < 0.01


def test_frames_without_contrast_have_no_hash_and_are_like_nothing():
    flat = np.full((5, 64, 64), 80, np.uint8)
    faint = flat + np.random.default_rng(0).integers(0, 2, flat.shape, dtype=np.uint8)
    mixed = np.concatenate([flat, recording(0)])
    assert [len(hashes(clip)) for clip in (flat, faint, flat * 0, mixed)] == [0, 0, 0, 9]
    bits = [hashes(clip) for clip in (flat, faint, recording(0))]
    assert {matching.distance(bits[one], other) for one in (0, 1) for other in bits} == {1}
    assert matching.near(bits, bits, LIMIT).values.tolist() == [[2, 2, 0]]


def test_a_still_that_two_clips_share_does_not_make_them_copies():
    """A title, say: it is in less than half of either clip."""
    title = recording(9, frames=1).repeat(4, 0)
    left, right = (hashes(np.concatenate([recording(seed), title])) for seed in (1, 2))
    assert matching.distance(left, right) > 0.3 and matching.near([left], [right], LIMIT).empty


def test_few_frames_are_held_to_the_limit_of_stills():
    bits = hashes(recording(0))
    altered = bits.copy()
    altered[:, :51] *= -1                                                       # a fifth
    for frames, found in ((1, False), (2, False), (3, True), (9, True)):
        for one, other in ((bits, altered[:frames]), (bits[:frames], altered)):
            assert len(matching.near([one], [other], LIMIT)) == found


def resolved(clips, pairs):
    """What comes of clips given as (clip, group, label) that are copies pair by pair."""
    used = pd.DataFrame(clips, columns=["clip", "group", "label"])
    both = sorted(pairs + [pair[::-1] for pair in pairs])
    near = pd.DataFrame(both, columns=["one", "other"]).assign(distance=0.125)
    return used.assign(**copies.resolve(used, near)).set_index("clip")


def test_copies_under_two_patients_join_all_their_clips():
    clips = [("a1", "a", "ill"), ("a2", "a", "ill"), ("b1", "b", "ill"), ("b2", "b", "well"), ("c1", "c", "well"),
             ("d", "d", "well")]
    table = resolved(clips, [(0, 2), (3, 4), (0, 1)])
    assert table["group"].to_dict() == {"a1": "a", "a2": "a", "b1": "a", "b2": "a", "c1": "a", "d": "d"}
    assert table["copy_of"].to_dict() == {"a1": "b1 (distance 0.12)", "a2": "", "b1": "a1 (distance 0.12)",
                                          "b2": "c1 (distance 0.12)", "c1": "b2 (distance 0.12)", "d": ""}
    assert (table["left_out"] == "").all()


def test_copies_with_two_labels_are_left_out_and_join_nobody():
    clips = [("a1", "a", "ill"), ("a2", "a", "well"), ("b1", "b", "ill"), ("c1", "c", "well"), ("d1", "d", "well"),
             ("d2", "d", "well")]
    table = resolved(clips, [(0, 1), (2, 3), (3, 4), (4, 5)])
    assert table["left_out"].str.contains("different labels").to_dict() == dict(
        a1=True, a2=True, b1=True, c1=True, d1=True, d2=False)
    assert table["group"].tolist() == ["a", "a", "b", "c", "d", "d"]


def test_only_clips_that_the_task_uses_are_marked(workspace):
    clips = [{"clip": name, "patient": f"p{name}", "label": "ill"} for name in "abc"] + [{"clip": "d", "left_out": "broken"}]
    write_frame_store(workspace / "toy", clips)
    frames = np.load(workspace / "toy/frames.npy")
    frames[4:8] = frames[8:12] = frames[:4]
    np.save(workspace / "toy/frames.npy", frames)
    table = pd.DataFrame(clips).fillna("")
    table.loc[2, "left_out"] = "no part"
    marked = copies.mark(table, "toy", LIMIT)
    assert marked["copy_of"].tolist() == ["b (distance 0.00)", "a (distance 0.00)", "", ""]
    assert marked["group"].tolist() == ["pa", "pa", "pc", "clip d"]
    assert marked["left_out"].tolist() == ["", "", "no part", "broken"]


def test_a_task_without_clips_is_left_to_the_folds_to_refuse(workspace):
    write_frame_store(workspace / "toy", [{"clip": "a"}])
    table = pd.DataFrame([{"clip": "a", "patient": "", "label": "ill", "left_out": "no part"}])
    assert copies.mark(table, "toy", LIMIT)["left_out"].tolist() == ["no part"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"clips": 0.5, "stills": 0.1}, "copy_distance.clips is 0.5; it must be below 0.5"),
        ({"clips": 0.2, "stills": -0.1}, "copy_distance.stills is -0.1; it must be 0 or more"),
        ({"clips": "near", "stills": 0.1}, "copy_distance.clips is 'near'; it must be a number"),
        ({"clips": 0.2}, "stills is missing"),
        ({"clips": 0.2, "stills": 0.1, "frames": 0.1}, "copy_distance.frames is not a parameter"),
    ],
)
def test_impossible_limits_are_one_sentence(values, sentence):
    with pytest.raises(UserError, match=sentence):
        copies.limits(values)
