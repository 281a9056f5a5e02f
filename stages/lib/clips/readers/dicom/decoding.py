"""One frame of a DICOM file → luminance, for every photometric interpretation."""

from collections.abc import Iterable
from contextlib import suppress

import numpy as np
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.pixels.utils import as_pixel_options

from stages.lib.clips.readers import pixels
from stages.lib.clips.readers.dicom.header import PALETTE, quiet
from stages.lib.clips.readers.dicom.pixel_data import PixelData
from stages.lib.clips.readers.recording import Unreadable

LOSS = 16  # grey values: so far outside of their range compression may move colours


class Decoder:
    """A frame, compressed or by its number → the luminance of what it shows: [H, W] uint8, uint16 or float32.

    Args:
        data: of the open file.
        shown: see `kept`.
    """

    def __init__(self, data: PixelData, shown: np.ndarray | None) -> None:
        self.data, self.shown = data, shown
        self.decoder = get_decoder(data.syntax)
        self.options = as_pixel_options(data.header, pixel_keyword="PixelData", pixel_vr=data.representation)
        self.kind, self.shift, stored = data.header.PhotometricInterpretation, 0, data.header.BitsStored
        self.palette = _palette(data.header) if self.kind == "PALETTE COLOR" else None
        self.top = -1 if data.header.PixelRepresentation else (1 << stored) - 1  # where 0 is white: top - value is grey
        if data.syntax.is_encapsulated:  # decoders yield pixel after pixel, or say otherwise, whatever the header states
            self.options["planar_configuration"] = 0
        else:
            self.shift = data.header.HighBit + 1 - stored  # values in the upper bits, of which pydicom knows nothing
            self.options["bits_stored"] = stored + self.shift
            if self.kind == "YBR_PARTIAL_422":
                self.options["photometric_interpretation"] = "YBR_FULL_422"  # in the same order, of another range

    def __call__(self, frame: bytes | int) -> np.ndarray:
        return kept(self.luminance(*self.values(frame)), self.shown)

    def find_black(self, frames: Iterable[bytes | int]) -> None:
        """Where 0 is white, black has the bits in use, which can be fewer than the header states: look for them."""
        header, largest = self.data.header, 0
        if self.kind != "MONOCHROME1" or header.PixelRepresentation or not 8 < header.BitsStored == header.BitsAllocated:
            return
        with suppress(ValueError):  # the frames break off
            for frame in frames:
                with suppress(Unreadable):  # a damaged one
                    largest = max(largest, int(self.values(frame)[0].max()))
        self.top = (1 << max(8, pixels.bits_in_use(largest))) - 1

    def values(self, frame: bytes | int) -> tuple[np.ndarray, str]:
        """The values of a frame as they are stored, [H, W] or [H, W, 3], and what they mean."""
        stream, index = self.data.stream, frame
        if isinstance(frame, bytes):
            stream, index = encapsulate([frame]), 0
        else:
            stream.seek(self.data.start)
        options = self.options | {"number_of_frames": index + 1}
        with quiet():
            values, found = self.decoder.as_array(stream, index=index, raw=True, **options)
            kind = self.kind if self.kind.startswith("YBR_PARTIAL") else found["photometric_interpretation"]
            if kind.startswith("YBR") and _is_rgb(values):
                kind = "RGB"
            elif kind == "RGB" and _is_ybr(values):
                kind = "YBR_FULL"
            return values >> self.shift if self.shift else values, kind

    def luminance(self, values: np.ndarray, photometric: str) -> np.ndarray:
        """The luminance [H, W] of decoded values [H, W] or [H, W, 3]."""
        if self.palette is not None:
            return self.palette[values & (len(self.palette) - 1)]
        if photometric.startswith("YBR_FULL"):
            return np.ascontiguousarray(values[..., 0])
        if photometric.startswith("YBR_PARTIAL"):
            return pixels.full_range(np.ascontiguousarray(values[..., 0]))
        if photometric == "MONOCHROME1":
            values = (self.top - values.astype(np.int64)).astype(values.dtype)
        return pixels.grey(values)


def _is_rgb(values: np.ndarray) -> bool:
    """Whether values [H, W, 3] that are labelled as luminance and two colours are red, green and blue.

    As luminance and colours they would often make up no colour at all: red, green or blue (ITU-R BT.601) below 0 or above 255.
    """
    if values.dtype != np.uint8:
        return False
    luminance, blue, red = np.moveaxis(values[::2, ::2].astype(np.float32) - [0, 128, 128], 2, 0)
    shown = np.stack([luminance + 1.402 * red, luminance - 0.344 * blue - 0.714 * red, luminance + 1.772 * blue])
    return np.any((shown < -LOSS) | (shown > 255 + LOSS), axis=0).mean() > 0.05


def _is_ybr(values: np.ndarray) -> bool:
    """Whether values [H, W, 3] that are labelled as red, green and blue are luminance and two colours.

    Then grey and black have 128 twice, beside any luminance. As red, green and blue, half of the picture would have one hue.
    """
    if values.dtype != np.uint8:
        return False
    apart = np.abs(values[::2, ::2].astype(np.int16) - 128)
    return np.mean((apart[..., 1:] <= 2).all(axis=2) & (apart[..., 0] > 8)) > 0.5


def _palette(header: Dataset) -> np.ndarray:
    """The luminance that each value stands for, uint8."""
    for name in PALETTE if not header.original_encoding[1] else ():
        if name in header and name.endswith("Data") and not name.startswith("Segmented"):  # pydicom reads the others right
            setattr(header, name, np.frombuffer(header[name].value, "<u2").byteswap().tobytes())
    entries = np.arange(1 << min(header.BitsAllocated, 16), dtype=np.uint8 if header.BitsAllocated == 8 else np.uint16)
    colours = pixels.grey(np.ascontiguousarray(apply_color_lut(entries[None], header)))[0]
    return (colours >> 8).astype(np.uint8) if colours.max() > 255 else colours.astype(np.uint8)


def kept(image: np.ndarray | None, shown: np.ndarray | None) -> np.ndarray | None:
    """The image [H, W], black where `shown` [H, W] is False; as it is where `shown` is None."""
    return image if image is None or shown is None else np.where(shown, image, image.dtype.type(0))
