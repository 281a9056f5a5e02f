"""The leak guard: which clips are likely copies of each other, and what that means for a task's patients and labels.

Frames are compared by their hashes (lib/clips/hashes.py), in any order, so that slowed, thinned and cut clips are found, too.
docs/leak_guard.md has the figures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
from annotated_types import Ge, Lt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stages.lib.clips import store
from stages.lib.clips.hashes import BITS, WAVES, hashes
from stages.lib.clips.tasks import groups
from stages.lib.params import block_of, from_params

Distance = Annotated[float, Ge(0), Lt(0.5)]     # 0: frames of equal hash; 0.5: frames that have nothing in common
SEVERAL = 3  # frames: fewer are no clip, and the agreement of one frame alone is weak evidence


class Limits(NamedTuple):
    """Distances up to which two clips are taken for copies; `stills`: where one of them has fewer than SEVERAL frames."""

    clips: Distance
    stills: Distance


CopyDistance = block_of(Limits)        # of params.yaml


def limits(copy_distance: dict) -> Limits:
    """The block copy_distance, checked.

    Raises:
        UserError: a key too many or missing, or a distance that unrelated frames have.
    """
    return from_params(Limits, copy_distance, "copy_distance")


def store_hashes(folder: str | Path, clips: Sequence[str]) -> list[np.ndarray]:
    """The hashes of each of the named clips of a frame store."""
    data = store.read(folder)
    rows = data.frame_table.groupby("clip", sort=False)["row"]
    return [hashes(data.frames[rows.get_group(clip).to_numpy()]) for clip in clips]


def compare(left: list[np.ndarray], right: list[np.ndarray], limit: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Distances of the clips of `left` from those of `right` [L, R], and which of these pairs are likely copies."""
    apart = distances(left, right)
    frames = np.minimum.outer([len(bits) for bits in left], [len(bits) for bits in right])
    return apart, apart <= np.where(frames < SEVERAL, limit.stills, limit.clips)


def distances(left: list[np.ndarray], right: list[np.ndarray]) -> np.ndarray:
    """How far each clip of `left` is from each of `right`, from the hashes of both: float32 [L, R], 0 to 1.

    For each frame of one clip the nearest of the other, mirrored or not, by the share of bits that differ; of these the
    median: half of the frames of a clip need a counterpart. Of the two directions the smaller, as a copy may be an excerpt.
    A clip without hashes is at distance 1 from all.
    """
    return np.minimum(_one_way(left, right), _one_way(right, left).T)


def _one_way(left: list[np.ndarray], right: list[np.ndarray]) -> np.ndarray:
    """The median over the frames of each left clip of the distance to the nearest frame of each right clip: [L, R]."""
    result = np.ones((len(left), len(right)), np.float32)
    filled = [place for place, bits in enumerate(right) if len(bits)]
    if not filled:
        return result
    starts = np.cumsum([0, *(len(right[place]) for place in filled)])[:-1]
    even = np.arange(1, WAVES**2) % 2 == 0                                      # horizontal frequencies: a mirror keeps these
    other = np.concatenate([right[place] for place in filled]).T.astype(np.float32)
    for row, bits in enumerate(left):
        if len(bits):
            bits = bits.astype(np.float32)
            common = bits[:, even] @ other[even] + np.abs(bits[:, ~even] @ other[~even])
            nearest = np.minimum.reduceat((1 - common / BITS) / 2, starts, axis=1)
            result[row, filled] = np.median(nearest, axis=0)
    return result


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
    bits = store_hashes(folder, used["clip"])
    apart, near = compare(bits, bits, limit)
    clips.update(pd.DataFrame(resolve(used, apart, near), index=used.index))
    return clips


def resolve(used: pd.DataFrame, apart: np.ndarray, near: np.ndarray) -> dict[str, np.ndarray | list]:
    """Columns copy_of, group and left_out of clips that have the distances `apart` and are copies where `near` [N, N]."""
    names, label, group = used["clip"].to_numpy(), used["label"].to_numpy(), used["group"].to_numpy()
    near = near & ((group[:, None] != group) | (label[:, None] != label))
    listed = [[f"{names[j]} (distance {apart[i, j]:.2f})" for j in np.flatnonzero(line)] for i, line in enumerate(near)]
    disputed = _disputed(label, near)
    reason = "copies of one clip have different labels: which is right is unknown"
    return {"copy_of": ["; ".join(line) for line in listed], "group": _joined(group, near & ~disputed),
            "left_out": np.where(disputed, reason, "")}


def pool(used: pd.DataFrame, apart: np.ndarray, near: np.ndarray) -> pd.DataFrame:
    """What copies mean for a pretraining set: they share a group, so that none is trained on while another is held out; where
    their pooled classes differ, all of them lose theirs. Copies in one group that agree on the class are not named.

    Args:
        used: clip (a name unique among all sources), group, pooled_class ('' if unlabelled).
        apart, near: as `compare` returns them for all pairs [N, N].

    Returns:
        Columns group, pooled_class, copy_of (the nearest other clip, '' if none), distance (NaN if none), copy_reason.
    """
    group, pooled = used["group"].to_numpy(), used["pooled_class"].to_numpy()
    near = near & ((group[:, None] != group) | (pooled[:, None] != pooled))
    alike = near.any(axis=1)
    nearest = np.where(near, apart, 2).argmin(axis=1)
    disputed = _disputed(pooled, near)
    agreed, lost = "looks like another clip of the set", "looks like a clip of another class: neither class is used"
    reason = np.where(disputed, lost, agreed)
    return used.assign(
        group=_joined(group, near),
        pooled_class=used["pooled_class"].where(~disputed, ""),
        copy_of=np.where(alike, used["clip"].to_numpy()[nearest], ""),
        distance=np.where(alike, apart[np.arange(len(used)), nearest].astype(float).round(2), np.nan),
        copy_reason=np.where(alike, reason, ""),
    )[["group", "pooled_class", "copy_of", "distance", "copy_reason"]]


def _disputed(label: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Which clips have, directly or over others, copies of another label; no label ('') contradicts none. bool [N]."""
    _, recording = connected_components(near, directed=False)
    known = pd.Series(label).replace("", None)
    return known.groupby(recording).transform("nunique").to_numpy() > 1


def _joined(group: np.ndarray, near: np.ndarray) -> np.ndarray:
    """The groups of clips [N] after those that share copies were joined, named after the first of them."""
    one, two = np.nonzero(near)
    number, names = pd.factorize(group)
    links = coo_array((np.ones(len(one)), (number[one], number[two])), shape=(len(names), len(names)))
    _, merged = connected_components(links, directed=False)
    return pd.Series(names).groupby(merged).transform("first").to_numpy()[number]
