"""One clip from its file to the frames of a store: read, cropped, scaled."""

import hashlib
import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from stages.lib.clips import fan, sampling, store
from stages.lib.clips.crop import choice, sheet, text
from stages.lib.clips.crop.given import Given
from stages.lib.clips.readers import kinds, reading
from stages.lib.clips.readers.recording import Unreadable

# In clips.csv beside the source's table: size on square pixels; frames read, kept, all black among those looked at, damaged;
# what the crop went by, its box in px, why it may be wrong, and how many frames show something else (stages/lib/clips/crop);
# blake2b of the files; how values became grey levels; height of a pixel in mm; burned_in, `yes` where the file says that names
# or dates stand in the picture, `text` where letters were found inside the crop; sentences on what was not believed; the
# probe's geometry in sides of the kept frames, the half angle in radians, empty where it could not be told.
COLUMNS = dict.fromkeys(("height", "width", "frames_read", "frames_kept", "frames_black", "frames_damaged"), 0)
COLUMNS |= choice.COLUMNS | {"checksum": "", "grey": "", "mm_per_px": math.nan, "burned_in": "", "notes": ""}
COLUMNS |= dict.fromkeys(store.FAN, math.nan)


class Recipe(NamedTuple):
    """How frames are taken: the keys of the params block (see params.yaml)."""

    frame_rate_hz: float
    max_frames_per_clip: int
    assumed_frame_rate_hz: float
    size_px: int
    geometry: str = "fan"


def extract(
    path: Path, fps: float, target: Path, masks: list[Path], crop: Given | None, recipe: Recipe, pictured: bool = False
) -> dict:
    """Write the frames of one clip to <target>.frames.npy, those of its masks (of a still image) to <target>.masks.npy.

    Args:
        fps: frame rate that the source states, NaN if none.
        crop: the user's, if any.
        pictured: whether to make the clip's picture for the contact sheet.

    Returns:
        The clip's columns, `rows`: (frame, time_s) of each frame, and `picture` if `pictured`.
    """
    facts = {"checksum": _checksum(path)}
    try:
        clip = reading.read(path, fps, recipe.frame_rate_hz, recipe.max_frames_per_clip, recipe.assumed_frame_rate_hz)
    except Unreadable as error:
        return facts | {"left_out": str(error)}
    facts |= clip.facts
    if clip.files:
        facts["checksum"] = _checksum(path, *clip.files)
    if not clip.images:
        return facts | {"left_out": "no frame can be decoded: each is damaged"}
    if masks and len(clip.images) > 1:
        return facts | {"left_out": "it holds several pictures, of which one at most can fit its masks"}
    area = choice.choose(clip.images, crop, clip.region)
    facts |= choice.columns(area)
    cut = fan.cut(area, recipe.size_px, recipe.geometry)
    shown = partial(_picture, area) if pictured else lambda images: {}
    if not cut:
        return facts | shown(clip.images) | {"left_out": "the shape of its fan is no probe's: no geometry to take beams by"}
    facts |= dict(zip(store.FAN, np.round(cut.ring or [math.nan] * 5, 4).tolist(), strict=True))
    squares = [cut(image) for image in clip.images]
    usual = [index for index in range(len(squares)) if index not in area.odd]
    lit = [index for index in usual if squares[index].max() > fan.DARK]
    facts["frames_black"] = len(usual) - len(lit)
    if not lit:
        return facts | shown(clip.images) | {"left_out": "all frames are black"}
    chosen = sampling.spread(lit, recipe.max_frames_per_clip)
    kept = [clip.images[index] for index in chosen]
    facts |= shown(kept)
    facts["burned_in"] = facts["burned_in"] or ("text" if text.found(kept, area) else "")
    if masks:
        np.save(f"{target}.masks.npy", lesions(masks, clip.images[0].shape, cut)[None])
    np.save(f"{target}.frames.npy", np.stack([squares[index] for index in chosen]))
    rows = [(clip.numbers[index], clip.times_s[index]) for index in chosen]
    return facts | {"frames_kept": len(chosen), "rows": rows}


def _picture(area: fan.Fan, images: list[np.ndarray]) -> dict[str, str]:
    """The column `picture`, for the contact sheet."""
    return {"picture": sheet.picture(images, area)}


def lesions(masks: list[Path], shape: tuple[int, int], cut: fan.Cut) -> np.ndarray:
    """The masks, cropped and scaled as their image, in one: 0, or the number of the lesion that covers half of the pixel.

    Lesions count from 1 in the order of their files; where two overlap, the later one has the pixel. uint8 [size_px, size_px].

    Raises:
        ValueError: a mask that cannot be decoded or has not the image's shape: it would lie elsewhere.
    """
    numbers = np.zeros((cut.size_px, cut.size_px), np.uint8)
    for number, path in enumerate(masks, 1):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if mask is None or mask.shape != shape:
            raise ValueError(f"its mask {path.name} is damaged or not of the image's size")
        binary = np.where(mask > 127, 255, 0).astype(np.uint8)
        numbers[cut(binary) > 127] = number
    return numbers


def _checksum(path: Path, *others: Path) -> str:
    """Of a clip's files and of others that hold its pixels; '' where there is none."""
    digest, files = hashlib.blake2b(digest_size=16), [*kinds.files_of(path), *others]
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest() if files else ""
