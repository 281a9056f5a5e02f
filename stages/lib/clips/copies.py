"""The leak guard: which clips are likely copies of each other, and what that means for a task's patients and labels.

Frames are compared by their hashes (lib/clips/hashes.py), in any order, so that slowed, thinned and cut clips are found, too.
docs/leak_guard.md has the figures.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stages.lib.clips import store
from stages.lib.clips.hashes import BITS, hashes
from stages.lib.clips.matching import Limits, near_within, nearest
from stages.lib.clips.sampling import spread
from stages.lib.clips.tasks import groups
from stages.lib.params import block_of, from_params
from stages.lib.running import cache

FRAMES = 30     # of a clip that are compared: so the time does not depend on the length of the clips
CopyDistance = block_of(Limits)        # of params.yaml


def limits(copy_distance: dict) -> Limits:
    """The block copy_distance, checked.

    Raises:
        UserError: a key too many or missing, or a distance that unrelated frames have.
    """
    return from_params(Limits, copy_distance, "copy_distance")


def store_hashes(folder: str | Path, clips: Sequence[str]) -> list[np.ndarray]:
    """The hashes of each of the named clips of a frame store, of at most FRAMES frames of a clip, evenly spread."""
    data = store.read(folder)
    rows = data.frame_table.set_index("row").groupby("clip", sort=False).groups
    known = cache.of_room("clips")
    return [_hashes(data.frames[spread(rows[clip], FRAMES)], known) for clip in clips]


def _hashes(frames: np.ndarray, known: cache.Cache | None) -> np.ndarray:
    """`hashes`, from the cache where these frames were there before."""
    if not known:
        return hashes(frames)
    entry = known.key("hashes", frames.shape, hashlib.blake2b(frames.tobytes()).hexdigest())
    found = known.get(entry)
    if found is None:
        found = {"positive": np.packbits(hashes(frames) > 0, axis=1)}
        known.put(entry, found)
    return 2 * np.unpackbits(found["positive"], axis=1, count=BITS).astype(np.int8) - 1


def mark(clips: pd.DataFrame, folder: str | Path, limit: Limits) -> pd.DataFrame:
    """A task's clips with columns group and copy_of, and a reason in left_out for copies that carry different labels.

    Copies under two patients come into one group with all clips of both: a group is what folds must not split. Copies under
    one patient and one label are harmless and not touched.

    Args:
        clips: clip, patient, label, left_out; compared are those that the task uses.
        folder: their frame store.
    """
    clips = clips.assign(copy_of="", group=groups(clips))
    used = clips[clips["left_out"] == ""]
    near = near_within(store_hashes(folder, used["clip"]), limit, f"{folder}")
    clips.update(pd.DataFrame(resolve(used, near), index=used.index))
    return clips


def resolve(used: pd.DataFrame, near: pd.DataFrame) -> dict[str, np.ndarray]:
    """Columns copy_of, group and left_out of clips [N], of which the pairs `near` (as `near_within` gives them) are copies."""
    names, label, group = used["clip"].to_numpy(), used["label"].to_numpy(), used["group"].to_numpy()
    near = _unlike(near, group, label)
    listed = [f"{names[pair.other]} (distance {pair.distance:.2f})" for pair in near.itertuples()]
    copy_of = pd.Series(listed, dtype=object).groupby(near["one"].to_numpy()).agg("; ".join)
    disputed = _disputed(label, near)
    reason = "copies of one clip have different labels: which is right is unknown"
    return {"copy_of": copy_of.reindex(range(len(used)), fill_value="").to_numpy(),
            "group": _joined(group, near[~disputed[near["one"]]]), "left_out": np.where(disputed, reason, "")}


def pool(used: pd.DataFrame, near: pd.DataFrame) -> pd.DataFrame:
    """What copies mean for a pretraining set: they share a group, so that none is trained on while another is held out; where
    their pooled classes differ, all of them lose theirs. Copies in one group that agree on the class are not named.

    Args:
        used: clip (a name unique among all sources), group, pooled_class ('' if unlabelled).
        near: the pairs that are copies, as `near_within` gives them.

    Returns:
        Columns group, pooled_class, copy_of (the nearest other clip, '' if none), distance (NaN if none), copy_reason.
    """
    group, pooled = used["group"].to_numpy(), used["pooled_class"].to_numpy()
    near = _unlike(near, group, pooled)
    closest = nearest(near).set_index("one").reindex(range(len(used)))
    alike = closest["other"].notna().to_numpy()
    disputed = _disputed(pooled, near)
    agreed, lost = "looks like another clip of the set", "looks like a clip of another class: neither class is used"
    reason = np.where(disputed, lost, agreed)
    return used.assign(
        group=_joined(group, near),
        pooled_class=used["pooled_class"].where(~disputed, ""),
        copy_of=np.where(alike, used["clip"].to_numpy()[closest["other"].fillna(0).astype(int)], ""),
        distance=closest["distance"].to_numpy(float).round(2),
        copy_reason=np.where(alike, reason, ""),
    )[["group", "pooled_class", "copy_of", "distance", "copy_reason"]]


def _unlike(near: pd.DataFrame, group: np.ndarray, label: np.ndarray) -> pd.DataFrame:
    """The pairs whose clips are of two groups or have two labels; the others are harmless."""
    one, other = near["one"], near["other"]
    return near[(group[one] != group[other]) | (label[one] != label[other])]


def _disputed(label: np.ndarray, near: pd.DataFrame) -> np.ndarray:
    """Which clips have, directly or over others, copies of another label; no label ('') contradicts none. bool [N]."""
    known = pd.Series(label).replace("", None)
    return known.groupby(_linked(near["one"], near["other"], len(label))).transform("nunique").to_numpy() > 1


def _joined(group: np.ndarray, near: pd.DataFrame) -> np.ndarray:
    """The groups of clips [N] after those that share copies were joined, named after the first of them."""
    number, names = pd.factorize(group)
    merged = _linked(number[near["one"]], number[near["other"]], len(names))
    return pd.Series(names).groupby(merged).transform("first").to_numpy()[number]


def _linked(one: Sequence[int], other: Sequence[int], count: int) -> np.ndarray:
    """The connected components of `count` items that are linked pair by pair: the number of its component for each item."""
    return connected_components(coo_array((np.ones(len(one)), (one, other)), shape=(count, count)), directed=False)[1]
