"""TIFF of one or more pages through tifffile: every number of bits, floating point, colours, palettes, stacks of ImageJ."""

import copy
import logging
import math
import re
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import tifffile
from tifffile import PHOTOMETRIC, TiffFile, TiffPage

from stages.lib.clips.readers import pixels, times
from stages.lib.clips.readers.recording import Frames, Recording, Unreadable

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says of a damaged file is said in one sentence here
STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
LUMINANCE_FIRST = (PHOTOMETRIC.YCBCR, PHOTOMETRIC.CIELAB)  # the first of three channels is the luminance
KNOWN = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE, PHOTOMETRIC.MASK,
         PHOTOMETRIC.SEPARATED, *LUMINANCE_FIRST)  # fmt: skip
GREY = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK)
STRAIGHT_ALPHA = 2  # an extra sample that is to be multiplied with the colours; of another kind it is not
TURNS = {2: np.fliplr, 3: lambda image: image[::-1, ::-1], 4: np.flipud, 5: np.transpose, 6: lambda image: np.rot90(image, -1),
         7: lambda image: image[::-1, ::-1].T, 8: np.rot90}  # by the orientation that a page states # fmt: skip


def open_tiff(file: Path) -> Recording:
    """The pages of the commonest size; thumbnails, masks and smaller copies are left out.

    Raises:
        Unreadable: pages of volumes, or of values that are not read here.
    """
    with TiffFile(file) as tiff:
        notes = []
        pages = _pages(tiff, notes)
        facts = tiff.imagej_metadata or {}
        _require_pictures(pages)
        missing = max(int(facts.get("images", 0)) - len(tiff.pages), int(_breaks_off(tiff)))
        if not _breaks_off(tiff) and any(series.is_truncated for series in tiff.series):
            missing = 0  # the file lists the first page alone
        fps = _rate_hz(facts, (tiff.is_ome and tiff.ome_metadata) or "")
    clip = Recording(frames=None, fps=fps, notes=notes)
    clip.frames = partial(_frames, file, clip, missing)
    return clip


def _rate_hz(imagej: dict, ome: str) -> float:
    """Frames a second by ImageJ's facts, or by the time increment or the planes' times in OME's XML; NaN if unknown."""
    interval_s = (imagej.get("finterval") or math.nan) * times.seconds(str(imagej.get("tunit", "sec")))
    rate = 1 / interval_s if interval_s > 0 else imagej.get("fps") or math.nan
    for name in ("DeltaT", "TimeIncrement"):
        values = [times.number(text) for text in re.findall(rf'\b{name}="([^"]*)"', ome)]
        unit = re.search(rf'\b{name}Unit="([^"]*)"', ome)
        steps = np.diff(values) if name == "DeltaT" else np.array(values[:1])
        stated = times.frame_rate_hz(steps * times.seconds(unit[1] if unit else "s"))
        rate = rate if math.isnan(stated) else stated
    return rate


def _require_pictures(pages: list[TiffPage]) -> None:
    """Raise Unreadable where pages hold other than grey values or colours in two dimensions."""
    strange = {page.photometric for page in pages} - set(KNOWN)
    if strange:
        raise Unreadable(f"its colours ({', '.join(sorted(map(_name, strange)))}) are not read: save it as RGB or grey")
    grey = max((page.samplesperpixel for page in pages if page.photometric in GREY), default=1)
    if grey > 2:
        raise Unreadable(f"{grey} grey values a pixel: save them as pages, or as RGB")
    if any(page.axes not in ("YX", "YXS", "SYX") for page in pages):
        raise Unreadable("its pages are volumes: save their slices as pages")
    if any(page.dtype is not None and page.dtype.kind == "c" for page in pages):
        raise Unreadable("complex values: no picture, but raw echoes or the like")


def _name(kind: PHOTOMETRIC | int) -> str:
    return getattr(kind, "name", str(kind))


def _pages(tiff: TiffFile, notes: list[str]) -> list[TiffPage]:
    """The pages that are frames, in the order of the file."""
    if _breaks_off(tiff):  # such pages make up no series
        pages = [page.aspage() for page in tiff.pages]
    else:
        pages = [page for series in tiff.series for page in _of_series(series, notes)]
    sizes = [(page.imagewidth, page.imagelength) for page in pages]
    commonest = max(dict.fromkeys(sizes), key=sizes.count)
    kept = sorted((page for page, size in zip(pages, sizes, strict=True) if size == commonest), key=lambda page: page.index)
    if len(kept) < len(pages):
        notes.append(f"pages of another size than {commonest[0]} × {commonest[1]} are left out: {len(pages) - len(kept)}")
    return kept


def _of_series(series: tifffile.TiffPageSeries, notes: list[str]) -> list[TiffPage]:
    """The pages of a series along its only axis beside the picture's own; of several channels the first.

    A series of channels alone is taken for frames, as programs call an axis of which they know nothing a channel.
    """
    pages = [page.aspage() for page in series.pages if page is not None]
    if series.is_truncated and len(pages) == 1:
        pages = _unlisted(pages[0], series)
    shape = series.shape[: len(series.shape) - len(pages[0].axes)] if pages else ()
    long = {axis: length for axis, length in zip(series.axes, shape, strict=False) if length > 1}
    if len(long) < 2 or math.prod(shape) != len(pages):
        return pages
    if len(long) > 2 or "C" not in long:
        raise Unreadable(f"pages along {len(long)} axes ({', '.join(long)}): no sequence of pictures")
    notes.append(f"of its {long['C']} channels the first is read")
    numbers = np.arange(len(pages)).reshape(shape).take(0, axis=series.axes.index("C")).ravel()
    return [pages[number] for number in numbers]


def _unlisted(page: TiffPage, series: tifffile.TiffPageSeries) -> list[TiffPage]:
    """The pages of a series of which the file lists the first alone: ImageJ writes stacks of more than 4 GB so."""
    pages = [copy.copy(page) for _ in range(math.prod(series.shape) // math.prod(page.shape))]
    for number, further in enumerate(pages):
        further.dataoffsets, further._index = (page.dataoffsets[0] + number * page.nbytes,), (number,)
    return pages


def _breaks_off(tiff: TiffFile) -> bool:
    """Whether the last page that is there names a further one."""
    place = tiff.pages.next_page_offset
    if place is None:
        return False
    tiff.filehandle.seek(place)
    return any(tiff.filehandle.read(tiff.tiff.offsetsize))


def _frames(file: Path, clip: Recording, missing: int) -> Frames:
    with TiffFile(file) as tiff:
        pages = _pages(tiff, [])
        black = _black(pages)
        for page in pages:
            yield math.nan, partial(_picture, page, black)
        clip.damaged += missing


def _black(pages: list[TiffPage]) -> int:
    """The value that is black where 0 is white: it has the bits in use, which can be fewer than are stored; 0 if unknown."""
    largest = 0
    for page in pages:
        deep = page.photometric == PHOTOMETRIC.MINISWHITE and page.dtype in (np.uint16, np.uint32)
        if deep and page.imagewidth * page.imagelength <= pixels.MOST_PX:
            with suppress(Exception):  # a damaged page
                largest = max(largest, int(page.asarray().max()))
    return largest and (1 << max(8, pixels.bits_in_use(largest))) - 1


def _picture(page: TiffPage, black: int) -> np.ndarray | None:
    """One page at its full depth, upright; None if it is damaged.

    Args:
        black: see `_black`.
    """
    if page.imagewidth * page.imagelength > pixels.MOST_PX:
        return None
    values = page.asarray()
    if page.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    image = _luminance(page, values, black)
    turn = page.tags.valueof(274, default=1)
    return np.ascontiguousarray(TURNS[turn](image)) if turn in TURNS else image


def _luminance(page: TiffPage, values: np.ndarray, black: int) -> np.ndarray:
    kind = page.photometric
    if kind == PHOTOMETRIC.PALETTE:
        colours = page.colormap[:, values]
        deep = page.colormap.max() > 255  # some programs write 8 bits where 16 belong
        return pixels.grey((colours >> 8 if deep else colours).astype(np.uint8).transpose(1, 2, 0))
    whole = values.dtype.kind == "u" and isinstance(page.bitspersample, int)  # not of colours that differ in bits
    top = (1 << page.bitspersample) - 1 if whole else 0  # the largest whole number
    if kind == PHOTOMETRIC.MINISWHITE:
        values = min(black or top, top) - values if top else -values.astype(np.float32)  # pages can differ in bits
    if 0 < top < 255:
        values = (values * (255 / top)).round().astype(np.uint8)
    if kind == PHOTOMETRIC.SEPARATED and values.ndim > 2 and values.shape[2] >= 4:  # cyan, magenta, yellow, black ink
        paper = np.iinfo(values.dtype).max - values[..., :4].astype(np.int64)
        values = (paper[..., :3] * paper[..., 3:] // np.iinfo(values.dtype).max).astype(values.dtype)
    elif kind in LUMINANCE_FIRST and values.ndim > 2 and "JPEG" not in _name(page.compression):
        values = values[..., 0]
    elif values.ndim > 2 and STRAIGHT_ALPHA not in page.extrasamples:
        values = values[..., : values.shape[2] - len(page.extrasamples)]
    return pixels.grey(np.ascontiguousarray(values))
