"""Which part of a clip's pictures is kept: what the user gave in crops.csv, else the fan that is found."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from stages.lib.clips.crop import detection, scenes
from stages.lib.clips.crop.given import Given
from stages.lib.clips.fan import Fan
from stages.lib.clips.readers import pixels, stack

COLUMNS = {"crop": "", "crop_left": 0, "crop_top": 0, "crop_width": 0, "crop_height": 0, "crop_uncertain": "", "frames_odd": 0}


def choose(images: Sequence[np.ndarray], given: Given | None = None, region: tuple[int, int, int, int] | None = None) -> Fan:
    """The part of a clip's pictures to keep.

    Args:
        images: T x uint8 [H, W], all of one size.
        given: the user's crop of this clip; it is taken as it stands.
        region: left, top, width, height of the tissue as the file states it; the fan is sought inside it.

    Raises:
        ValueError: the given crop does not fit the pictures.
    """
    if given:
        return _given(given, images[0].shape)._replace(odd=scenes.odd(images))
    if not region:
        return detection.find(images)
    left, top, width, height = region
    inside = [image[top : top + height, left : left + width] for image in images]
    found = detection.find(inside)
    box = (found.box[0] + left, found.box[1] + top, *found.box[2:])
    return found._replace(kind="region", box=box, uncertain="") if found.kind == "full" else found._replace(box=box)


def columns(fan: Fan) -> dict:
    """The columns of clips.csv that say what was kept."""
    return dict(zip(COLUMNS, (fan.kind, *fan.box, fan.uncertain, len(fan.odd)), strict=True))


def _given(given: Given, shape: tuple[int, int]) -> Fan:
    """The user's box, or the lit part of the user's mask, as a fan of kind `given`."""
    height, width = shape
    if given.mask:
        drawn = stack.mask(given.mask)
        mask = drawn if drawn is None else pixels.to_8_bits([drawn])[0][0]
        if mask is None or mask.shape != shape or mask.max() <= 127:
            what = "cannot be read" if mask is None else "is black" if mask.shape == shape else "has another size"
            raise ValueError(f"crops.csv: {Path(given.mask).name} {what}; it must be white on black, {width} × {height} px")
        mask = np.where(mask > 127, 255, 0).astype(np.uint8)
        left, top, wide, high = cv2.boundingRect(mask)
        return Fan("given", (left, top, wide, high), mask[top : top + high, left : left + wide])
    left, top, wide, high = given.box
    if left + wide > width or top + high > height:
        raise ValueError(f"crops.csv: the box reaches beyond the picture of {width} × {height} px")
    return Fan("given", given.box, np.full((high, wide), 255, np.uint8))
