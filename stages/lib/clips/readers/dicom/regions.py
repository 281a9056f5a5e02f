"""Where a DICOM file's picture shows tissue, and how large its pixels are."""

import math
from typing import NamedTuple

import numpy as np
from pydicom import Dataset

from stages.lib.clips.readers import pixels
from stages.lib.clips.readers.dicom.header import values

TISSUE, COLOUR_FLOW = 1, 2  # RegionDataType
TWO_DIMENSIONAL, NONE = 1, 0  # RegionSpatialFormat
CENTIMETRES = 3  # PhysicalUnitsXDirection
SLACK_PX = 2  # regions of real scanners end so far outside the picture
LEAST_PX = 16  # a smaller picture of tissue, or one of which so much is not covered by others, is a slip
Box = tuple[int, int, int, int]


class Tissue(NamedTuple):
    """Where the picture shows tissue in two dimensions.

    Attributes:
        box: left, top, width, height; None: the file does not state it.
        shown: bool [H, W], True where there is tissue and no spectrum, M-mode, ECG or grey bar; None: everywhere.
        entry: of the file's list of regions.
    """

    box: Box | None = None
    shown: np.ndarray | None = None
    entry: Dataset | None = None


def tissue(header: Dataset, notes: list[str]) -> Tissue:
    """The largest region of tissue (of colour flow, where there is no other); what is not believed is told in `notes`."""
    found = []
    for region in header.get("SequenceOfUltrasoundRegions") or []:
        ends = [values(region, f"RegionLocation{end}") for end in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        if not all(ends):
            notes.append("a region that it states has no place: no region is believed")
            return Tissue()
        left, top, right, bottom = (int(end[0]) for end in ends)
        width, height = right - left + 1, bottom - top + 1
        outside = max(right + 1 - header.Columns, bottom + 1 - header.Rows, -left, -top)
        if outside > SLACK_PX or min(width, height) < 1:
            notes.append("a region that it states lies outside its picture: no region is believed")
            return Tissue()
        left, top = max(left, 0), max(top, 0)
        box = left, top, min(right + 1, header.Columns) - left, min(bottom + 1, header.Rows) - top
        found.append((box, region.get("RegionSpatialFormat"), region.get("RegionDataType"), region))
    return _largest(header, found, notes)


def _largest(header: Dataset, found: list[tuple], notes: list[str]) -> Tissue:
    for kind in (TISSUE, COLOUR_FLOW):
        pictures = [entry for entry in found if entry[1:3] == (TWO_DIMENSIONAL, kind)]
        if not pictures:
            continue
        box, _, _, region = max(pictures, key=lambda entry: entry[0][2] * entry[0][3])
        shown = _shown(header, box, [entry[0] for entry in found if _shows_no_tissue(*entry[1:3])])
        if min(box[2:]) < LEAST_PX or np.count_nonzero(shown) < LEAST_PX**2:
            notes.append("the region of tissue that it states is tiny, or lies below another: no region is believed")
            return Tissue()
        if kind == TISSUE and len(pictures) > 1:
            notes.append(f"of its {len(pictures)} pictures side by side the largest is read")
        return Tissue(box, shown, region)
    return Tissue()


def _shows_no_tissue(spatial_format: int, data_type: int) -> bool:
    return spatial_format not in (NONE, TWO_DIMENSIONAL) or data_type not in (NONE, TISSUE, COLOUR_FLOW)


def _shown(header: Dataset, box: Box, others: list[Box]) -> np.ndarray:
    shown = np.zeros((header.Rows, header.Columns), bool)
    for value, boxes in ((True, [box]), (False, others)):
        for left, top, width, height in boxes:
            shown[top : top + height, left : left + width] = value
    return shown


def scale(header: Dataset, region: Dataset | None, notes: list[str]) -> tuple[float, float]:
    """Width of a pixel over its height, and its height in mm (NaN if unknown)."""
    sides_mm, spacing = [math.nan, math.nan], values(header, "PixelSpacing")
    if region is not None and region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == CENTIMETRES:
        sides_mm = [10 * abs(sum(values(region, f"PhysicalDelta{axis}")[:1])) or math.nan for axis in "XY"]
    elif len(spacing) == 2 and min(spacing) > 0 and spacing != [1, 1]:  # 1 mm: nobody has measured it
        sides_mm = spacing[::-1]
    aspect, ratio = sides_mm[0] / sides_mm[1], values(header, "PixelAspectRatio")
    if math.isnan(aspect) and len(ratio) == 2 and min(ratio) > 0:
        aspect = ratio[1] / ratio[0]  # the file says height : width
    return pixels.believed_aspect(aspect, notes), sides_mm[1]
