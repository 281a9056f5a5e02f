"""One clip from its file to the frames of a store: read, cropped, scaled."""

import hashlib
import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.lib.clips import catalogue, fan, sampling, store
from stages.lib.clips.crop import choice, sheet, text
from stages.lib.clips.crop.given import Given
from stages.lib.clips.readers import kinds, pixels, reading, stack
from stages.lib.clips.readers.recording import Unreadable
from stages.lib.running.cache import Cache, pack, unpack

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


class Wanted(NamedTuple):
    """What decides, beside a clip's files, what is extracted. Arguments as in `extract`."""

    fps: float
    masks: list[Path]
    crop: Given | None
    recipe: Recipe
    pictured: bool


def extract(
    path: Path, fps: float, target: Path, masks: list[Path], crop: Given | None, recipe: Recipe, pictured: bool = False,
    cache: Cache | None = None,
) -> dict:  # fmt: skip
    """Write the frames of one clip to <target>.frames.npy, those of its masks (of a still image) to <target>.masks.npy.

    Args:
        fps: frame rate that the source states, NaN if none.
        crop: the user's, if any.
        pictured: whether to make the clip's picture for the contact sheet.
        cache: of what was extracted before; a clip that is in it is not read again.

    Returns:
        The clip's columns, `rows`: (frame, time_s) of each frame, and `picture` if `pictured`.
    """
    wanted, checksum = Wanted(fps, masks, crop, recipe, pictured), _checksum(path)
    entry = cache and _entry(path, checksum, wanted, cache)
    known = cache and _known(path, checksum, cache.get(entry))
    facts, arrays, others = known or _extracted(path, checksum, wanted)
    if cache and not known and others is not None:
        cache.put(entry, arrays | {"facts": pack([facts, [file.name for file in others]])})
    for name, array in arrays.items():
        np.save(f"{target}.{name}.npy", array)
    return facts


def _entry(path: Path, checksum: str, wanted: Wanted, cache: Cache) -> str:
    """The clip's name in the cache, made of all that decides what is extracted, but for files that its header names.

    Of a file's name the end counts, from which ffmpeg guesses the format; of the files in a folder the whole names, by which
    images are ordered and others listed.
    """
    inside = [*kinds.files_of(path), *catalogue.files(path)] if path.is_dir() else []
    names = [(file.name, file.stat().st_size) for file in inside] or path.suffixes
    masks = [_checksum(mask) for mask in wanted.masks]
    crop = wanted.crop and (wanted.crop.box, _checksum(wanted.crop.mask) if wanted.crop.mask else None)
    return cache.key("clip", checksum, names, wanted._replace(masks=masks, crop=crop))


def _known(path: Path, checksum: str, arrays: dict[str, np.ndarray] | None) -> tuple[dict, dict, list[Path]] | None:
    """As `_extracted`, from an entry of the cache; None without one, or where other files that hold its pixels changed."""
    if not arrays:
        return None
    facts, others = unpack(arrays.pop("facts"))
    files = [path.with_name(name) for name in others]
    same = all(file.is_file() for file in files) and facts["checksum"] == (_checksum(path, *files) if files else checksum)
    return (facts, arrays, files) if same else None


def _extracted(path: Path, checksum: str, wanted: Wanted) -> tuple[dict, dict[str, np.ndarray], list[Path] | None]:
    """The clip's columns; its frames and masks; other files that hold its pixels, None if it is unreadable."""
    facts, recipe = {"checksum": checksum}, wanted.recipe
    try:
        clip = reading.read(
            path, wanted.fps, recipe.frame_rate_hz, recipe.max_frames_per_clip, recipe.assumed_frame_rate_hz)  # fmt: skip
    except Unreadable as error:
        return facts | {"left_out": str(error)}, {}, None
    if clip.files:
        facts["checksum"] = _checksum(path, *clip.files)
    found, arrays = _kept(clip, wanted)
    return facts | clip.facts | found, arrays, clip.files


def _kept(clip: reading.Clip, wanted: Wanted) -> tuple[dict, dict[str, np.ndarray]]:
    """The columns that tell what is kept of a clip, and its frames and masks, cropped and scaled."""
    recipe, masks = wanted.recipe, wanted.masks
    if not clip.images:
        return {"left_out": "no frame can be decoded: each is damaged"}, {}
    if masks and len(clip.images) > 1:
        return {"left_out": "it holds several pictures, of which one at most can fit its masks"}, {}
    area = choice.choose(clip.images, wanted.crop, clip.region)
    facts = choice.columns(area)
    cut = fan.cut(area, recipe.size_px, recipe.geometry)
    shown = partial(_picture, area) if wanted.pictured else lambda images: {}
    if not cut:
        return facts | shown(clip.images) | {"left_out": "the shape of its fan is no probe's: no geometry to take beams by"}, {}
    facts |= dict(zip(store.FAN, np.round(cut.ring or [math.nan] * 5, 4).tolist(), strict=True))
    squares = [cut(image) for image in clip.images]
    usual = [index for index in range(len(squares)) if index not in area.odd]
    lit = [index for index in usual if squares[index].max() > fan.DARK]
    facts["frames_black"] = len(usual) - len(lit)
    if not lit:
        return facts | shown(clip.images) | {"left_out": "all frames are black"}, {}
    chosen = sampling.spread(lit, recipe.max_frames_per_clip)
    kept = [clip.images[index] for index in chosen]
    facts |= shown(kept)
    facts["burned_in"] = clip.facts["burned_in"] or ("text" if text.found(kept, area) else "")
    arrays = {"frames": np.stack([squares[index] for index in chosen])}
    if masks:
        arrays["masks"] = lesions(masks, clip, cut)[None]
    rows = [(clip.numbers[index], clip.times_s[index]) for index in chosen]
    return facts | {"frames_kept": len(chosen), "rows": rows}, arrays


def _picture(area: fan.Fan, images: list[np.ndarray]) -> dict[str, str]:
    """The column `picture`, for the contact sheet."""
    return {"picture": sheet.picture(images, area)}


def lesions(masks: list[Path], clip: reading.Clip, cut: fan.Cut) -> np.ndarray:
    """The masks, cropped and scaled as their image, in one: 0, or the number of the lesion that covers half of the pixel.

    Lesions count from 1 in the order of their files; where two overlap, the later one has the pixel. uint8 [size_px, size_px].

    Raises:
        ValueError: a mask that cannot be decoded, has not the image's shape (it would lie elsewhere), or is no mask.
    """
    numbers = np.zeros((cut.size_px, cut.size_px), np.uint8)
    for number, path in enumerate(masks, 1):
        mask = stack.mask(path)
        if mask is None or mask.shape != clip.shape:
            raise ValueError(f"its mask {path.name} is damaged or not of the image's size")
        white = int(mask.max())
        threshold = 0 if white <= 1 else 127 if white <= 255 else 32767  # some programs write 1 for white
        if 1 < white <= threshold:
            raise ValueError(f"its mask {path.name} is neither white on black nor 1 on 0: its largest value is {white}")
        binary = np.where(mask > threshold, 255, 0).astype(np.uint8)
        numbers[cut(pixels.scaled(binary, *clip.images[0].shape)) > 127] = number
    return numbers


def _checksum(path: Path, *others: Path) -> str:
    """Of a clip's files and of others that hold its pixels; '' where there is none."""
    digest, files = hashlib.blake2b(digest_size=16), [*kinds.files_of(path), *others]
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while block := stream.read(1 << 16):        # larger blocks take fresh memory from the system, each time
                digest.update(block)
    return digest.hexdigest() if files else ""
