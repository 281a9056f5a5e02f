"""Files that hold one or more pictures: TIFF through tifffile; GIF, PNG, APNG, WebP, JPEG, BMP, PNM through Pillow."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from stages.lib.clips.readers import pixels
from stages.lib.clips.readers.recording import Frames, Recording, Unreadable

Image.MAX_IMAGE_PIXELS = pixels.MOST_PX // 2  # Pillow refuses a picture of twice as many
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def first(file: Path) -> np.ndarray:
    """The first picture of a file: [H, W] uint8, uint16 or float32.

    Raises:
        Unreadable: the picture is damaged.
    """
    frames = open_stack(file).frames()  # kept until the end: it holds the file open
    _, decode = next(frames)
    return decode()


def open_stack(file: Path) -> Recording:
    """All pictures of a file, with the times that it states.

    Raises:
        Unreadable: no picture can be made out.
    """
    with file.open("rb") as stream:
        is_tiff = stream.read(4) in TIFF
    return _open_tiff(file) if is_tiff else _open_animation(file)


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """What the libraries raise on a damaged file, as one sentence."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise Unreadable("no frame can be decoded: no picture of a kind that is known") from error
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # damaged files make them raise of every kind
        raise Unreadable("no frame can be decoded: the picture is damaged, cut off or too large") from error


# Pillow


def _open_animation(file: Path) -> Recording:
    with _named(file), Image.open(file) as image:
        several = getattr(image, "n_frames", 1) > 1
        if several:
            image.load()  # WebP knows the duration only then
        duration_s = image.info.get("duration", 0) / 1000
    return Recording(frames=partial(_shown, file), fps=1 / duration_s if duration_s else math.nan, timed=several)


def _shown(file: Path) -> Frames:
    """The pictures of an animation one after the other, each with the time from which on it is shown."""
    with _named(file), Image.open(file) as image:
        begin = 1 if image.info.get("default_image") else 0  # of an APNG for programs that show no animation
        time, count = 0.0, getattr(image, "n_frames", 1)
        if count == 1 and image.mode in ("LA", "RGB", "RGBA") and any("16" in str(tile.args) for tile in image.tile):
            yield math.nan, partial(_deep_colours, file)
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


def _deep_colours(file: Path) -> np.ndarray:
    """A picture of 16 bits a colour, of which Pillow keeps the upper 8."""
    image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels.grey(image if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]])


# tifffile


def _open_tiff(file: Path) -> Recording:
    """The longest series of pages of one size; thumbnails and masks are other series."""
    with _named(file), tifffile.TiffFile(file) as tiff:
        pages, others = _pages(tiff)
        facts = tiff.imagej_metadata or {}
        interval_s = facts.get("finterval") or (1 / facts["fps"] if facts.get("fps") else math.nan)
    notes = [f"{others} pages of another size are left out"] if others else []
    return Recording(frames=partial(_paged, file), fps=1 / interval_s, notes=notes)


def _pages(tiff: tifffile.TiffFile) -> tuple[list, int]:
    series = max(tiff.series, key=len)
    return [page for page in series.pages if page is not None], len(tiff.pages) - len(series)


def _paged(file: Path) -> Frames:
    with _named(file), tifffile.TiffFile(file) as tiff:
        for page in _pages(tiff)[0]:
            yield math.nan, partial(_page, page.aspage())


def _page(page: tifffile.TiffPage) -> np.ndarray | None:
    """One page at its full depth; None if it is damaged."""
    if page.imagewidth * page.imagelength > pixels.MOST_PX:
        return None
    values = page.asarray()
    if page.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        values = (page.colormap[:, values] >> 8).astype(np.uint8).transpose(1, 2, 0)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
    if values.ndim > 2 and not page.extrasamples:
        values = values[..., :3]
    return pixels.grey(values)
