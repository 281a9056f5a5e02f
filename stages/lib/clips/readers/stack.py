"""Files of one or more pictures: GIF, PNG, APNG, WebP, AVIF, JPEG, JPEG 2000, BMP, PNM through Pillow; for TIFF see tiff.py."""

import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stages.lib.clips.readers import pixels, several, tiff
from stages.lib.clips.readers.recording import Frames, Recording, Unreadable

Image.MAX_IMAGE_PIXELS = pixels.MOST_PX // 2  # Pillow refuses a picture of twice as many
ORIENTATION = 274  # of Exif
KINDS = "AVIF BMP GIF JPEG JPEG2000 PNG PPM WEBP".split()  # a camera's MPO is a JPEG


def first(file: Path) -> np.ndarray:
    """The first picture of a file: [H, W] uint8, uint16 or float32.

    Raises:
        Unreadable: the picture is damaged.
    """
    frames = open_stack(file).frames()  # kept until the end: it holds the file open
    _, decode = next(frames)
    return decode()


def mask(file: Path) -> np.ndarray | None:
    """As `first`, but None where the file is missing or damaged. What is transparent is no part of a mask."""
    with suppress(Unreadable), _named():
        return first(file)
    return None


def open_stack(file: Path) -> Recording:
    """All pictures of a file, with the times that it states.

    Raises:
        Unreadable: no picture can be made out.
    """
    with file.open("rb") as stream:
        start = stream.read(4)
    if start[:1] == b"P" and several.holds_several(file):
        return Recording(frames=partial(_appended, file))
    with _named():
        return tiff.open_tiff(file) if start in tiff.STARTS else _open_animation(file)


@contextmanager
def _named() -> Iterator[None]:
    """What the libraries raise on a damaged file, as one sentence."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise Unreadable("no frame can be decoded: not a picture of a known kind") from error
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # damaged files make them raise of every kind
        raise Unreadable("no frame can be decoded: the picture is damaged, cut off or too large") from error


def _open_animation(file: Path) -> Recording:
    with Image.open(file, formats=KINDS) as image:
        moves = _count(image) > 1
        if moves:
            image.load()  # WebP knows the duration only then
        duration_s = image.info.get("duration", 0) / 1000
    return Recording(frames=partial(_shown, file), fps=1 / duration_s if duration_s else math.nan, timed=moves)


def _count(image: Image.Image) -> int:
    """How many pictures the file holds; the further ones of an MPO file are previews or other exposures of the first."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def _shown(file: Path) -> Frames:
    """The pictures of an animation one after the other, each with the time from which on it is shown."""
    with _named(), Image.open(file, formats=KINDS) as image:
        begin = 1 if image.info.get("default_image") else 0  # of an APNG for programs that show no animation
        time, count = 0.0, _count(image)
        if count == 1 and image.mode in ("LA", "RGB", "RGBA") and any(";16" in str(tile.args) for tile in image.tile):
            yield math.nan, partial(_deep_colours, file, image.getexif().get(ORIENTATION, 1))
            return
        for number in range(begin, count):
            try:
                image.seek(number)
                image.load()  # WebP knows the duration only now
            except Exception:  # see _named
                yield math.nan, _damaged
                return
            duration_s = image.info.get("duration", 0) / 1000
            yield time if duration_s else math.nan, partial(_array, image)
            time += duration_s


def _appended(file: Path) -> Frames:
    """The pictures of a file in which PNM pictures of one size follow each other."""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header, place = several.PNM.match(data)[0], 0
        while place >= 0:
            after = data.find(header, place + len(header))
            yield math.nan, partial(_still, data[place : after if after >= 0 else len(data)])
            place = after


def _still(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data), formats=["PPM"]) as image:
        return _array(image)


def _damaged() -> None:
    return None


def _array(image: Image.Image) -> np.ndarray:
    """The picture that Pillow shows now."""
    turned = ImageOps.exif_transpose(image)
    if turned.mode not in ("L", "LA", "RGB", "RGBA", "F", "I", "1") and not turned.mode.startswith("I;16"):
        turned = turned.convert("RGBA" if turned.has_transparency_data else "RGB")
    elif turned.mode in ("L", "RGB") and turned.has_transparency_data:
        turned = turned.convert("RGBA")
    return pixels.grey(np.asarray(turned))


def _deep_colours(file: Path, orientation: int) -> np.ndarray:
    """A picture of 16 bits a colour, of which Pillow keeps the upper 8; upright."""
    image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED)
    grey = pixels.grey(image if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]])
    return np.ascontiguousarray(tiff.TURNS.get(orientation, np.asarray)(grey))
