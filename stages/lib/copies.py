"""The leak guard: which clips are likely copies of each other, by perceptual hashes of their frames.

A copy may be re-encoded, scaled, cropped, mirrored, slowed down or cut out of the original. Against that stand: frames in
which each place is compared with its surroundings (contrast, brightness, the shape of the fan); a window laid by what
is to be seen (cropping, scale); frames matched in any order (frame rate, excerpts). docs/leak_guard.md has the figures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stages.lib import store
from stages.lib.fan import DARK
from stages.lib.params import checked, require
from stages.lib.tasks import groups

SIDE_PX = 64  # frames are shrunk towards this side first
SURROUNDINGS = 1 / 16  # σ of the Gaussian around a place, in sides of the frame
NOISE = 5.0  # grey values: local contrast well below it hardly counts
FAINT = 1.0  # grey values: a frame of less contrast has nothing to be known by
REACH = 2.0  # the window goes so many standard deviations of the contrast to each side of its centre
SEVERAL = 3  # frames: fewer are no clip, and the agreement of one frame alone is weak evidence
WAVES = 16  # frequencies along each axis, 0 … 15 half-periods; a hash has all of their products but the mean
BITS = WAVES**2 - 1


class Limits(NamedTuple):
    """Distances up to which two clips are taken for copies; `stills`: where one of them has fewer than SEVERAL frames."""

    clips: float
    stills: float


def limits(copy_distance: dict) -> Limits:
    """The block assemble_us4.copy_distance, checked.

    Raises:
        UserError: a key too many or missing, or a distance that unrelated frames have.
    """
    checked(Limits, copy_distance, {key: f"assemble_us4.copy_distance.{key}" for key in copy_distance})
    for key, value in copy_distance.items():
        require(0 <= value < 0.5, f"params.yaml: assemble_us4.copy_distance.{key} is {value}; choose 0 (frames of equal hash) "
                "to below 0.5 (frames that have nothing in common)")
    return Limits(**copy_distance)


def store_hashes(folder: str | Path, clips: Sequence[str]) -> list[np.ndarray]:
    """The hashes of each of the named clips of a frame store."""
    data = store.read(folder)
    rows = data.frame_table.groupby("clip", sort=False)["row"]
    return [hashes(data.frames[rows.get_group(clip).to_numpy()]) for clip in clips]


def hashes(frames: np.ndarray) -> np.ndarray:
    """Bits of a clip's frames [T, H, W] uint8 as ±1, int8 [T', BITS]; frames without contrast have no hash.

    The signs of low-frequency cosine coefficients, as in pHash (Zauner 2010, section 3.2.1), of the normalised local contrast
    under a sine window. Its centre and size are the mean and standard deviation of the place of the contrast.
    """
    lit = frames.max(axis=0) > DARK
    frames, lit = _shrunk(frames.astype(np.float32)), _shrunk(lit.astype(np.float32)) > 0.5
    contrast, normalised = _contrast(frames, lit)                               # T x H x W
    seen = (contrast**2).sum(axis=(1, 2)) > FAINT**2 * lit.sum()
    strength, normalised = np.abs(contrast[seen]), normalised[seen]
    rows, columns = _waves(strength.sum(axis=2)), _waves(strength.sum(axis=1))  # T x WAVES x H, T x WAVES x W
    coefficients = rows @ normalised @ columns.transpose(0, 2, 1)               # T x WAVES x WAVES
    return np.where(coefficients > 0, 1, -1).astype(np.int8).reshape(-1, WAVES**2)[:, 1:]


def _shrunk(images: np.ndarray) -> np.ndarray:
    """Means over square blocks of [..., H, W], so large that the longer side stays at SIDE_PX or above."""
    block = max(1, max(images.shape[-2:]) // SIDE_PX)
    height, width = (side // block for side in images.shape[-2:])
    parts = images[..., : height * block, : width * block]
    return parts.reshape(*images.shape[:-2], height, block, width, block).mean(axis=(-3, -1))


def _contrast(frames: np.ndarray, lit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Difference of each place to the mean of its surroundings in the lit area, in grey values and in local deviations.

    Means over the lit area alone, by normalised convolution (Knutsson and Westin 1993): the fan's edge is no contrast.
    """
    height, width = (_gauss(side) for side in lit.shape)

    def mean(images: np.ndarray) -> np.ndarray:
        return height @ (images * lit) @ width / np.maximum(height @ lit @ width, 1e-3)

    contrast = (frames - mean(frames)) * lit
    return contrast, contrast / (np.sqrt(mean(contrast**2)) + NOISE)


def _gauss(side: int) -> np.ndarray:
    """Weights [side, side] of each place in the surroundings of each other."""
    apart = np.subtract.outer(np.arange(side), np.arange(side)) / (SURROUNDINGS * side)
    return np.exp(-(apart**2) / 2).astype(np.float32)


def _waves(weight: np.ndarray) -> np.ndarray:
    """Cosines of 0 … WAVES − 1 half-periods under a sine window around `weight` [T, N]: [T, WAVES, N]."""
    place, total = np.arange(weight.shape[1]) + 0.5, weight.sum(axis=1)
    centre = weight @ place / total
    spread = np.sqrt((weight * (place - centre[:, None]) ** 2).sum(axis=1) / total)
    inside = ((place - centre[:, None]) / np.maximum(REACH * spread, 1)[:, None] + 1)[:, None] / 2     # 0 … 1 in the window
    cosines = np.cos(np.pi * np.arange(WAVES)[:, None] * inside)
    return (cosines * np.sin(np.pi * inside.clip(0, 1))).astype(np.float32)


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
    names, label = used["clip"].to_numpy(), used["label"].to_numpy()
    group = used["group"].to_numpy()
    near = near & ((group[:, None] != group) | (label[:, None] != label))
    listed = [[f"{names[j]} (distance {apart[i, j]:.2f})" for j in np.flatnonzero(line)] for i, line in enumerate(near)]
    _, recording = connected_components(near, directed=False)
    disputed = used["label"].groupby(recording).transform("nunique").to_numpy() > 1
    reason = "copies of one clip have different labels: which is right is unknown"
    number, patients = pd.factorize(group)
    one, two = np.nonzero(near & ~disputed)
    links = coo_array((np.ones(len(one)), (number[one], number[two])), shape=(len(patients), len(patients)))
    _, merged = connected_components(links, directed=False)
    first = pd.Series(patients).groupby(merged).transform("first").to_numpy()
    return {"copy_of": ["; ".join(line) for line in listed], "group": first[number], "left_out": np.where(disputed, reason, "")}
