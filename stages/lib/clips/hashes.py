"""Perceptual hashes of frames: nearly the same bits however a frame was encoded, scaled, cropped, lit or mirrored.

Each place is compared with its surroundings, so that contrast, brightness and the shape of the fan do not count. The window is
placed by the content of the frame, so that the crop does not count.
"""

import numpy as np

from stages.lib.clips.fan import DARK

SIDE_PX = 64  # frames are shrunk towards this side first
SURROUNDINGS = 1 / 16  # σ of the Gaussian around a place, in sides of the frame
NOISE = 5.0  # grey values: local contrast well below it hardly counts
FAINT = 1.0  # grey values: a frame of less contrast has nothing to be known by
REACH = 2.0  # the window goes so many standard deviations of the contrast to each side of its centre
WAVES = 16  # frequencies along each axis, 0 … 15 half-periods; a hash has all of their products but the mean
BITS = WAVES**2 - 1


def hashes(frames: np.ndarray) -> np.ndarray:
    """Bits of a clip's frames [T, H, W] uint8 as ±1, int8 [T', BITS]; frames without contrast have no hash.

    The signs of low-frequency cosine coefficients, as in pHash (Zauner 2010, section 3.2.1), of the normalised local contrast
    under a sine window. Its centre and size are the mean and standard deviation of the place of the contrast.
    """
    lit = frames.max(axis=0) > DARK
    frames, lit = _shrunk(frames.astype(np.float32)), _shrunk(lit.astype(np.float32)) > 0.5
    contrast, normalised = _contrast(frames, lit)                               # T x H x W
    seen = (contrast**2).sum(axis=(1, 2)) > FAINT**2 * lit.sum()
    strength, normalised = np.abs(contrast[seen]), normalised[seen]
    rows, columns = _waves(strength.sum(axis=2)), _waves(strength.sum(axis=1))  # T x WAVES x H, T x WAVES x W
    coefficients = rows @ normalised @ columns.transpose(0, 2, 1)               # T x WAVES x WAVES
    return np.where(coefficients > 0, 1, -1).astype(np.int8).reshape(-1, WAVES**2)[:, 1:]


def _shrunk(images: np.ndarray) -> np.ndarray:
    """Means over square blocks of [..., H, W], so large that the longer side stays at SIDE_PX or above."""
    block = max(1, max(images.shape[-2:]) // SIDE_PX)
    height, width = (side // block for side in images.shape[-2:])
    parts = images[..., : height * block, : width * block]
    return parts.reshape(*images.shape[:-2], height, block, width, block).mean(axis=(-3, -1))


def _contrast(frames: np.ndarray, lit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Difference of each place to the mean of its surroundings in the lit area, in grey values and in local deviations.

    Means over the lit area alone, by normalised convolution (Knutsson and Westin 1993): the fan's edge is no contrast.
    """
    height, width = (_gauss(side) for side in lit.shape)

    def mean(images: np.ndarray) -> np.ndarray:
        return height @ (images * lit) @ width / np.maximum(height @ lit @ width, 1e-3)

    contrast = (frames - mean(frames)) * lit
    return contrast, contrast / (np.sqrt(mean(contrast**2)) + NOISE)


def _gauss(side: int) -> np.ndarray:
    """Weights [side, side] of each place in the surroundings of each other."""
    apart = np.subtract.outer(np.arange(side), np.arange(side)) / (SURROUNDINGS * side)
    return np.exp(-(apart**2) / 2).astype(np.float32)


def _waves(weight: np.ndarray) -> np.ndarray:
    """Cosines of 0 … WAVES − 1 half-periods under a sine window around `weight` [T, N]: [T, WAVES, N]."""
    place, total = np.arange(weight.shape[1]) + 0.5, weight.sum(axis=1)
    centre = weight @ place / total
    spread = np.sqrt((weight * (place - centre[:, None]) ** 2).sum(axis=1) / total)
    inside = ((place - centre[:, None]) / np.maximum(REACH * spread, 1)[:, None] + 1)[:, None] / 2     # 0 … 1 in the window
    cosines = np.cos(np.pi * np.arange(WAVES)[:, None] * inside)
    return (cosines * np.sin(np.pi * inside.clip(0, 1))).astype(np.float32)
