"""The header of a DICOM file, without the patient: the form of its pixels, and the times of its frames."""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from pydicom import Dataset, dcmread

from stages.lib.clips.readers import times
from stages.lib.clips.readers.recording import Unreadable

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote the header
OLD_STARTS = tuple(b"\x08\0" + bytes([element, 0]) for element in (0, 5, 8, 0x16)) + (b"\x02\0\0\0",)
NEEDED = "Rows Columns BitsAllocated PhotometricInterpretation".split()
PICTURE = [*NEEDED, *"SamplesPerPixel PlanarConfiguration NumberOfFrames BitsStored HighBit PixelRepresentation".split()]
PALETTE = [f"{colour}PaletteColorLookupTable{part}" for colour in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")]
PALETTE += [f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")]
TIME = "FrameTime FrameTimeVector CineRate RecommendedDisplayFrameRate".split()
PLACE = "SequenceOfUltrasoundRegions PixelAspectRatio PixelSpacing BurnedInAnnotation".split()
KIND = ["SOPClassUID", "PerFrameFunctionalGroupsSequence"]
GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")
OTHERS = ("HSV", "ARGB", "CMYK", "XYB")  # known, and not read


def is_dicom(start: bytes) -> bool:
    """Whether a file that begins so is DICOM, with the preamble or, from old archives, without."""
    return start[128:132] == b"DICM" or start.startswith(OLD_STARTS)


@contextmanager
def quiet() -> Iterator[None]:
    """What pydicom says of a damaged file quotes its header: names must not get into a table or a log."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # pydicom raises many kinds
        raise Unreadable(f"a damaged or incomplete DICOM file ({type(error).__name__})") from None


def read_header(stream: BinaryIO) -> Dataset:
    """The elements named above and no other; the stream then stands at the pixel data."""
    return dcmread(stream, stop_before_pixels=True, force=True, specific_tags=PICTURE + PALETTE + TIME + PLACE + KIND)


def complete(header: Dataset) -> None:
    """Add what may be missing, and mend what cannot be.

    Raises:
        Unreadable: without the missing or contradictory elements there is no picture. The sentence quotes no value but
            known ones.
    """
    missing = [name for name in NEEDED if header.get(name) in (None, "")]
    if missing:
        raise Unreadable(f"its header does not state {', '.join(missing)}")
    kind, allocated = str(header.PhotometricInterpretation).strip().upper(), header.BitsAllocated
    if kind not in GREY + COLOURS:
        named = kind if kind in OTHERS else "of an unknown kind"
        raise Unreadable(f"its colours, {named}, are not read: save it as RGB or grey")
    samples = 1 if kind in GREY else 3
    if (header.get("SamplesPerPixel") or samples) != samples:
        raise Unreadable(f"its header contradicts itself: {kind} with {header.SamplesPerPixel} per pixel in place of {samples}")
    header.PhotometricInterpretation, header.SamplesPerPixel = kind, samples
    header.PixelRepresentation = 1 if header.get("PixelRepresentation") == 1 else 0
    if samples == 3:
        header.PlanarConfiguration = header.get("PlanarConfiguration") or 0
    stored = header.get("BitsStored") or 0
    header.BitsStored = stored if 0 < stored <= allocated else allocated
    high = header.get("HighBit") or 0
    header.HighBit = high if header.BitsStored <= high + 1 <= allocated else header.BitsStored - 1


def frame_times(header: Dataset, notes: list[str]) -> tuple[float, list[float]]:
    """Frame rate in Hz, NaN if none is stated, and the times of the frames in s, where each is stated.

    The first of the four elements that can be is taken; the first of all where none can be.
    """
    rates = [1000 / time_ms if (time_ms := _positive(header, "FrameTime")) else 0.0]
    rates += [_positive(header, name) for name in ("CineRate", "RecommendedDisplayFrameRate")]
    others = [rate for rate in rates if times.plausible(rate)] or [rate for rate in rates if rate]
    steps_ms = _steps_ms(header, others, notes)
    rate_hz = times.frame_rate_hz(np.divide(steps_ms[1:], 1000))
    stated = [rate for rate in (rate_hz, *others) if times.plausible(rate)]
    if stated and max(stated) > 2 * min(stated):
        notes.append(f"its header states {', '.join(f'{rate:.4g}' for rate in stated)} frames a second: the first is taken")
    if rate_hz > 0 and (times.plausible(rate_hz) or not others):
        count = header.get("NumberOfFrames") or len(steps_ms)
        if count != len(steps_ms):
            notes.append(f"it states the times of {len(steps_ms)} frames and has {count}: missing times are spaced evenly")
        return rate_hz, list(np.cumsum([0, *steps_ms[1:]]) / 1000)
    return next(iter(others), math.nan), []


def _steps_ms(header: Dataset, rates: list[float], notes: list[str]) -> list[float]:
    """FrameTimeVector: the step from the frame before to each frame. If the values fit the other rates only as times since the
    first frame, they are read as such.
    """
    steps_ms = values(header, "FrameTimeVector")
    rises_ms = np.diff(steps_ms)
    found = [times.frame_rate_hz(np.divide(steps, 1000)) for steps in (steps_ms[1:], rises_ms)]
    fits = [bool(rates) and 0.8 < rate / rates[0] < 1.25 for rate in found]
    if fits == [False, True] and min(rises_ms) > 0:
        notes.append("its FrameTimeVector holds times, not the steps between frames: it is read as times")
        return [0.0, *rises_ms.tolist()]
    return steps_ms


def values(header: Dataset, name: str) -> list[float]:
    """The numbers of an element of any multiplicity; none where it is missing, empty or damaged."""
    try:
        value = header.get(name)
        numbers = [] if value in (None, "") else list(value) if hasattr(value, "__iter__") else [value]
        found = [float(number) for number in numbers]
    except (ValueError, TypeError, OverflowError):
        return []
    return found if np.isfinite(found).all() else []


def _positive(header: Dataset, name: str) -> float:
    """A number above 0, or 0 for anything else."""
    return max([0.0, *values(header, name)[:1]])
