"""What is read from a DICOM file beside its pixels: size, time, place and scale of the picture, nothing about a person."""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from pydicom import Dataset, dcmread

from stages.lib.clips.readers import pixels
from stages.lib.clips.readers.recording import Unreadable

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote the header
OLD_STARTS = tuple(b"\x08\0" + bytes([element, 0]) for element in (0, 5, 8, 0x16)) + (b"\x02\0\0\0",)

PICTURE = ("SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns BitsAllocated BitsStored "
           "HighBit PixelRepresentation").split()  # fmt: skip
PALETTE = [f"{colour}PaletteColorLookupTable{part}" for colour in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")]
PALETTE += [f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")]
TIME = "FrameTime FrameTimeVector CineRate RecommendedDisplayFrameRate".split()
PLACE = "SequenceOfUltrasoundRegions PixelAspectRatio PixelSpacing BurnedInAnnotation".split()
TISSUE, COLOUR_FLOW = 1, 2  # RegionDataType
TWO_DIMENSIONAL, NONE = 1, 0  # RegionSpatialFormat
CENTIMETRES = 3  # PhysicalUnitsXDirection
SLACK_PX = 2  # regions of real scanners end so far outside the picture


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
    return dcmread(stream, stop_before_pixels=True, force=True, specific_tags=PICTURE + PALETTE + TIME + PLACE)


def frame_times(header: Dataset) -> tuple[float, list[float]]:
    """Frame rate in Hz, NaN if none is stated, and the times of the frames in s, where each is stated."""
    steps_ms = [float(step) for step in _many(header.get("FrameTimeVector"))]
    if len(steps_ms) > 1 and min(steps_ms[1:]) > 0:
        return 1000 / float(np.mean(steps_ms[1:])), list(np.cumsum([0, *steps_ms[1:]]) / 1000)
    if frame_time_ms := _number(header.get("FrameTime")):
        return 1000 / frame_time_ms, []
    return _number(header.get("CineRate")) or _number(header.get("RecommendedDisplayFrameRate")) or math.nan, []


def tissue_region(header: Dataset, notes: list[str]) -> tuple[tuple | None, list[tuple], Dataset | None]:
    """Where the picture shows tissue in two dimensions.

    Returns:
        left, top, width, height of the largest region of tissue (of colour flow, where there is no other), None if none is
        stated; the same of the regions that show something else: spectra, M-mode, ECG, grey bars; and the tissue's entry.
    """
    found = []
    for region in header.get("SequenceOfUltrasoundRegions") or []:
        left, top, right, bottom = (int(region[f"RegionLocation{end}"].value) for end in ("MinX0", "MinY0", "MaxX1", "MaxY1"))
        width, height = right - left + 1, bottom - top + 1
        outside = max(right + 1 - header.Columns, bottom + 1 - header.Rows, -left, -top)
        if outside > SLACK_PX or min(width, height) < 1:
            notes.append("a region that it states lies outside its picture: no region is believed")
            return None, [], None
        box = left, top, min(width, header.Columns - left), min(height, header.Rows - top)
        found.append((box, region.get("RegionSpatialFormat"), region.get("RegionDataType"), region))
    for kind in (TISSUE, COLOUR_FLOW):
        tissue = [entry for entry in found if entry[1:3] == (TWO_DIMENSIONAL, kind)]
        if tissue:
            box, _, _, region = max(tissue, key=lambda entry: entry[0][2] * entry[0][3])
            if kind == TISSUE and len(tissue) > 1:
                notes.append(f"of its {len(tissue)} pictures side by side the largest is read")
            return box, [entry[0] for entry in found if _shows_no_tissue(*entry[1:3])], region
    return None, [], None


def _shows_no_tissue(spatial_format: int, data_type: int) -> bool:
    return spatial_format not in (NONE, TWO_DIMENSIONAL) or data_type not in (NONE, TISSUE, COLOUR_FLOW)


def scale(header: Dataset, region: Dataset | None) -> tuple[float, float]:
    """Width of a pixel over its height, and its height in mm (NaN if unknown)."""
    sides_mm = math.nan, math.nan
    if region is not None and region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == CENTIMETRES:
        sides_mm = tuple(10 * abs(float(region.get(f"PhysicalDelta{axis}") or math.nan)) for axis in "XY")
    elif len(spacing := _many(header.get("PixelSpacing"))) == 2 and list(spacing) != [1, 1]:  # 1 mm: nobody has measured it
        sides_mm = float(spacing[1]), float(spacing[0])
    aspect = sides_mm[0] / sides_mm[1]
    if math.isnan(aspect) and len(ratio := _many(header.get("PixelAspectRatio"))) == 2 and min(ratio) > 0:
        aspect = float(ratio[1]) / float(ratio[0])  # the file says height : width
    return (aspect if 1 / pixels.ODD_ASPECT <= aspect <= pixels.ODD_ASPECT else 1.0), sides_mm[1]


def _many(value: object) -> list:
    """The values of an element of any multiplicity; none where it is missing or empty."""
    return [] if value is None or value == "" else list(value) if hasattr(value, "__iter__") else [value]


def _number(value: object) -> float:
    """A number above 0, or 0 for anything else."""
    return float(value) if value not in (None, "") and float(value) > 0 else 0.0
