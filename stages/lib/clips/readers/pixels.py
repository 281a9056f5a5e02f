"""Pixels of every kind → grey values 0 to 255 on square pixels, by one rule for all frames of a clip."""

import math

import cv2
import numpy as np

LIMITED = (np.clip((np.arange(256) - 16) * 255 / 219, 0, 255) + 0.5).astype(np.uint8)  # ITU-R BT.601: 16 is black, 235 white
FRAME_BYTES = 6 << 20  # a larger frame is shrunk when it is read, so that the frames of a clip that are held fit into memory
MOST_PX = 1 << 26  # a picture of more pixels is damaged, or made to fill the memory
ODD_ASPECT = 8  # pixels that are so many times wider than high, or higher than wide, are a slip of the header


def full_range(luma: np.ndarray, bits: int = 8) -> np.ndarray:
    """Luma [H, W] of limited range, of 8 to 16 bits, as uint8 of full range."""
    if bits == 8:
        return cv2.LUT(luma, LIMITED)
    unit = 1 << (bits - 8)
    return cv2.convertScaleAbs(cv2.subtract(luma, 16 * unit), alpha=255 / 219 / unit)


def grey(image: np.ndarray) -> np.ndarray:
    """The luminance [H, W] of an image [H, W], [H, W, 1], grey + alpha, RGB or RGBA; transparent parts are black.

    Args:
        image: uint8, uint16, float32; other kinds of numbers become one of them.
    """
    image = _plain(image)
    if image.ndim == 2 or image.shape[2] == 1:
        return image.reshape(image.shape[:2])
    channels = image.shape[2]
    luminance = image[..., 0] if channels == 2 else cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2GRAY)
    return opaque(luminance, image[..., -1]) if channels in (2, 4) else luminance


def opaque(luminance: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The picture [H, W] laid over black where its alpha channel [H, W] lets something through."""
    most = 1.0 if alpha.dtype == np.float32 else np.iinfo(alpha.dtype).max
    if alpha.min() == most:
        return luminance
    return cv2.multiply(luminance, alpha, scale=1 / most, dtype=cv2.CV_32F).round().astype(luminance.dtype)


def _plain(image: np.ndarray) -> np.ndarray:
    """Any numbers as uint8, uint16 or float32."""
    if image.dtype in (np.uint8, np.uint16, np.float32):
        return image
    if image.dtype == bool:
        return image.astype(np.uint8) * 255
    with np.errstate(over="ignore", invalid="ignore"):
        return image.real.astype(np.float32)


def believed_aspect(aspect: float, notes: list[str]) -> float:
    """The width of a pixel over its height: 1 if unknown (NaN), and, with a sentence in `notes`, if it cannot be."""
    if math.isnan(aspect) or 1 / ODD_ASPECT <= aspect <= ODD_ASPECT:
        return 1.0 if math.isnan(aspect) else aspect
    notes.append(f"its pixels are said to be {aspect:.4g} times as wide as high: not believed")
    return 1.0


def fitted(image: np.ndarray, aspect: float) -> np.ndarray:
    """The image [H, W] on square pixels; of more than FRAME_BYTES, shrunk.

    Args:
        aspect: width of a pixel over its height; as video players do, the width changes and the height stays.
    """
    height, width = image.shape
    wide = width * aspect
    scale = min(1.0, math.sqrt(FRAME_BYTES / (wide * height * image.itemsize)))
    size = max(1, round(wide * scale)), max(1, round(height * scale))
    if size == (width, height):
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if min(aspect, 1) * scale < 1 else cv2.INTER_LINEAR)


def scaled(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image [H, W] at another size."""
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def bits_in_use(largest: float) -> int:
    """The least number of bits that hold a whole number."""
    return math.ceil(math.log2(largest + 1))


def to_8_bits(images: list[np.ndarray], bits: int | None = None) -> tuple[list[np.ndarray], str]:
    """The images of one clip as uint8, all of one kind by the same rule, and the rule in words ('' where nothing changed).

    Whole numbers are scaled by the bits in use, numbers from 0 to 1 by 255; numbers from 0 to 255 stay; of others the smallest
    becomes 0 and the largest 255.

    Args:
        images: T x [H, W] uint8, uint16 or float32.
        bits: in use, where the file says so.
    """
    several = list(dict.fromkeys(image.dtype for image in images))
    if len(several) > 1:  # a folder whose images were saved by different programs
        parts = [to_8_bits([image for image in images if image.dtype == kind], bits) for kind in several]
        turns = {kind: iter(part) for kind, (part, _) in zip(several, parts, strict=True)}
        return [next(turns[image.dtype]) for image in images], "; ".join(rule or "8 bits" for _, rule in parts)
    if set(several) <= {np.dtype(np.uint8)} and (bits or 8) >= 8:
        return images, ""
    images = [image if image.dtype != np.float32 else np.nan_to_num(image, nan=0, posinf=0, neginf=0) for image in images]
    low, high = float(min(image.min() for image in images)), float(max(image.max() for image in images))
    whole = not any((image % 1).any() for image in images if image.dtype == np.float32)
    if low >= 0 and whole and high > 1:
        bits = max(bits or 8, bits_in_use(high))
        low, high, rule = 0, 2**bits - 1, f"{bits} bits in use"
    elif low >= 0 and high <= 255:
        low, high = 0, 1 if high <= 1 else 255
        rule = f"values from 0 to {high}"
    else:
        rule = f"values from {low:.6g} to {high:.6g}"
    gain = 255 / max(high - low, 1e-30)
    return [cv2.convertScaleAbs(image, alpha=gain, beta=-low * gain) for image in images], rule
