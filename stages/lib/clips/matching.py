"""Which clips look alike: all near pairs of two lists of clips, exactly, without a table of all pairs.

Two clips are near only if at least one frame of the one is near a frame of the other. So all frames are compared by counts of
bits, which a processor does in one instruction for 64 of them; the few clips that share such frames are then compared in full.
docs/leak_guard.md says why no search tree or table of buckets does this faster.
"""

import hashlib
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
from annotated_types import Ge, Lt

from stages.lib.clips.hashes import BITS, WAVES
from stages.lib.running import cache

SEVERAL = 3                 # frames: fewer are no clip, and the agreement of one frame alone is weak evidence
ROWS, COLUMNS = 128, 4096   # frames that are compared at once: their counts stay in the processor's cache
EVEN = np.arange(1, WAVES**2) % 2 == 0      # horizontal frequencies whose bits a mirrored frame keeps; it inverts the others
HALF = 128                  # bits of the two words that hold the even ones, and of the two that hold the odd ones

Distance = Annotated[float, Ge(0), Lt(0.5)]     # 0: frames of equal hash; 0.5: frames that have nothing in common


class Limits(NamedTuple):
    """Distances up to which two clips are taken for copies; `stills`: where one of them has fewer than SEVERAL frames."""

    clips: Distance
    stills: Distance


def near(left: Sequence[np.ndarray], right: Sequence[np.ndarray], limit: Limits) -> pd.DataFrame:
    """The pairs of a clip of `left` and a clip of `right` that are likely copies of each other.

    Args:
        left, right: the hashes of each clip, ±1 [T, BITS].

    Returns:
        A line per pair, in order: `one` and `other`, the places in the lists, and `distance`, float32.
    """
    found, words, owners = [], [_words(left), _words(right)], [_owners(left), _owners(right)]
    for row in range(0, len(owners[0]), ROWS):
        for column in range(0, len(owners[1]), COLUMNS):
            found.append(_sharing(words, owners, row, column, limit))
    return _compared(left, right, found, limit)


def near_within(clips: Sequence[np.ndarray], limit: Limits, name: str) -> pd.DataFrame:
    """As `near` of a list with itself, but no clip is paired with itself. Each pair has two lines, one for either order.

    Args:
        name: of the list. Clips of the last list of this name were compared with each other then; the cache knows the pairs.
    """
    known = cache.of_room("clips")
    entry = known and known.key("near", limit, name)
    found = known and known.get(entry)
    digests = pd.Series([hashlib.blake2b(bits.tobytes(), digest_size=16).hexdigest() for bits in clips], dtype=object)
    seen, one, other, apart = cache.unpack(found["pairs"]) if found else ([], [], [], [])
    compared = (digests.isin(seen) & ~digests.duplicated()).to_numpy()      # a second clip of equal hashes is a new one
    old, new = np.flatnonzero(compared), np.flatnonzero(~compared)
    place = pd.Series(old, digests[old])
    before = _table(place.reindex(one), place.reindex(other), apart).dropna().query("one != other")
    fresh = [clips[number] for number in new]
    among, across = _among(fresh, limit), near(fresh, [clips[number] for number in old], limit)
    once = [_table(new[among["one"]], new[among["other"]], among["distance"]),
            _table(new[across["one"]], old[across["other"]], across["distance"])]
    turned = [_table(table["other"], table["one"], table["distance"]) for table in once]
    pairs = pd.concat([before, *once, *turned]).drop_duplicates(["one", "other"])       # pairs of clips of equal hashes
    pairs = pairs.sort_values(["one", "other"], ignore_index=True)
    pairs = pairs.astype({"one": int, "other": int})
    if known:
        sides = [digests[pairs[side]].tolist() for side in ("one", "other")]
        known.put(entry, {"pairs": cache.pack([sorted(set(digests)), *sides, pairs["distance"].tolist()])})
    return pairs


def _among(clips: Sequence[np.ndarray], limit: Limits) -> pd.DataFrame:
    """As `near` of a list with itself: each pair of two clips once, the earlier clip as `one`."""
    found, words, owner = [], _words(clips), _owners(clips)
    for row in range(0, len(owner), ROWS):
        for column in range(row, len(owner), COLUMNS):
            pairs = _sharing([words] * 2, [owner] * 2, row, column, limit)
            found.append(np.sort(pairs[pairs[:, 0] != pairs[:, 1]]))
    return _compared(clips, clips, found, limit)


def _table(one: Sequence[int], other: Sequence[int], apart: Sequence[float]) -> pd.DataFrame:
    """Pairs as `near` returns them."""
    return pd.DataFrame({"one": np.asarray(one), "other": np.asarray(other), "distance": np.asarray(apart, np.float32)})


def nearest(pairs: pd.DataFrame) -> pd.DataFrame:
    """Of the pairs of each clip in `one` that of the least distance, the first of those that are equally near."""
    return pairs.sort_values(["one", "distance", "other"]).drop_duplicates("one", ignore_index=True)


def distance(left: np.ndarray, right: np.ndarray) -> np.float32:
    """How far two clips are apart, from the hashes of both, ±1 [T, BITS]: 0 to 1.

    For each frame of one clip the nearest of the other, mirrored or not, by the share of bits that differ; of these the
    median: half of the frames of a clip need a counterpart. Of the two directions the smaller, as a copy may be an excerpt.
    A clip without hashes is at distance 1 from all.
    """
    if not (len(left) and len(right)):
        return np.float32(1)
    common = BITS - 2 * _differing(_words([left]), _words([right])).astype(np.float32)     # agreeing bits minus differing ones
    apart = (1 - common / BITS) / 2
    return min(np.median(apart.min(axis=1)), np.median(apart.min(axis=0)))


def _words(clips: Sequence[np.ndarray]) -> np.ndarray:
    """The hashes of all clips one after the other as words of 64 bits: two of even bits, two of odd ones, uint64 [4, N]."""
    bits = np.concatenate([np.zeros((0, BITS), np.int8), *clips]) > 0
    halves = np.zeros((len(bits), 2 * HALF), bool)
    halves[:, : EVEN.sum()], halves[:, HALF:] = bits[:, EVEN], bits[:, ~EVEN]
    return np.ascontiguousarray(np.packbits(halves, axis=1).view(np.uint64).T)


def _owners(clips: Sequence[np.ndarray]) -> np.ndarray:
    """The place of the clip that each hash is of, [N]."""
    return np.repeat(np.arange(len(clips)), list(map(len, clips)))


def _differing(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How many bits of each hash of `left` [4, L] differ from each of `right` [4, R], mirrored or not: uint8 [L, R]."""
    words = [np.bitwise_count(one[:, None] ^ other) for one, other in zip(left, right, strict=True)]
    even, odd = words[0] + words[1], words[2] + words[3]
    return even + np.minimum(odd, HALF - odd)


def _sharing(words: list[np.ndarray], owners: list[np.ndarray], row: int, column: int, limit: Limits) -> np.ndarray:
    """Pairs of clips [P, 2] of which a frame among ROWS from `row` on is near a frame among COLUMNS from `column` on."""
    differing = _differing(words[0][:, row : row + ROWS], words[1][:, column : column + COLUMNS])
    one, other = np.nonzero(differing <= np.ceil(max(limit) * BITS))
    return np.unique(np.stack([owners[0][row + one], owners[1][column + other]], axis=1), axis=0)


def _compared(
    left: Sequence[np.ndarray], right: Sequence[np.ndarray], found: list[np.ndarray], limit: Limits
) -> pd.DataFrame:
    """Of pairs that may be near those that are, each once, with their distance."""
    pairs = np.unique(np.concatenate([np.zeros((0, 2), int), *found]), axis=0)
    apart = np.array([distance(left[one], right[other]) for one, other in pairs], np.float32)
    few = np.array([min(len(left[one]), len(right[other])) < SEVERAL for one, other in pairs], bool)
    table = _table(pairs[:, 0], pairs[:, 1], apart)
    return table[apart <= np.where(few, limit.stills, limit.clips)].reset_index(drop=True)
