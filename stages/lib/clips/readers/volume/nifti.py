"""Headers of NIfTI files, versions 1 and 2: .nii, .nii.gz, and .hdr with the pixels in an .img beside it."""

import gzip
import math
from pathlib import Path

import nibabel

from stages.lib.clips.readers import times
from stages.lib.clips.readers.volume.header import Volume, measured, unnamed


def read(path: Path, start: bytes) -> Volume:
    """What the file states.

    Args:
        start: first bytes of the file, unpacked.

    Raises:
        Exception: of many kinds, where the header is damaged.
    """
    second = start[4:8] in (b"n+2\0", b"ni2\0")
    with path.open("rb") as file:
        packing = "gzip" if file.read(2) == b"\x1f\x8b" else "raw"
    with (gzip.open if packing == "gzip" else open)(path, "rb") as file:
        header = (nibabel.Nifti2Header if second else nibabel.Nifti1Header).from_fileobj(file)
    kind = header.get_data_dtype()
    channels = len(kind.names) if kind.names else 1  # colours are named fields
    dtype = kind[0] if kind.names else kind
    slope, intercept = header.get_slope_inter()
    unit, clock = header.get_xyzt_units()
    zooms = [float(zoom) for zoom in header["pixdim"][1:5]]
    layout = unnamed(list(header.get_data_shape()), zooms[:3])
    fps = times.frame_rate_hz([zooms[3] * times.seconds(clock)]) if header["dim"][0] == 4 else math.nan
    alone = b"n+" in start[:348]
    file = path if alone else path.with_name(path.name.replace(".hdr", ".img").replace(".HDR", ".IMG"))  # the second of a pair
    before = int(header["vox_offset"])
    offset, skipped = (0, before) if packing == "gzip" else (before, 0)  # header and pixels are packed together
    return Volume(file, offset, packing, channels, dtype, slope or 1, intercept or 0, skipped,
                  measured(zooms[layout["mixed"] :], [unit, unit]), fps, **layout)  # fmt: skip
