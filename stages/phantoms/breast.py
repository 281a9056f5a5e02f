"""Breast phantom: skin, fat with Cooper's ligaments, gland and chest muscle, and in some images one or two lesions.

The classes of lesions differ as in the BI-RADS lexicon (shape, orientation, margin, posterior features), but overlap.
"""

import cv2
import numpy as np

from stages.phantoms.tissue import Body, bell, texture
from stages.phantoms.transducer import Transducer

NAMES = ("width_mm", "ratio", "lobes", "spicules", "margin_mm", "echo", "enhancement", "shadow")
SIGNS = {  # class → (mildest, most severe) of each of NAMES: height / width, fractions of the radius, dB/mm
    "benign": ((7, 22), (0.45, 0.9), (0.02, 0.14), (0, 0.06), (0.15, 0.5), (0.02, 0.45), (0.9, 0.1), (0, 0.2)),
    "malignant": ((8, 20), (0.7, 1.5), (0.08, 0.22), (0.02, 0.5), (0.3, 1.2), (0.4, 0.12), (0.15, 0), (0, 1.3)),
}
SIGNS = {label: dict(zip(NAMES, values, strict=True)) for label, values in SIGNS.items()} | {"normal": {}}
SECOND_PROBABILITY = 0.12  # of a second lesion, if the first leaves room for it


class Breast(Body):
    """The breast of one image, in layers.

    Args:
        signs: of the lesion, by NAMES; empty if there is no lesion.

    Attributes:
        lesions: for each lesion, the canvas points inside its outline, bool [rows, columns].
    """

    def __init__(
        self, transducer: Transducer, signs: dict[str, float], patient: np.random.Generator, clip: np.random.Generator
    ):
        super().__init__(transducer, patient, clip)
        self.excursion_mm = 0, 0                                              # no organ that slides under the wall
        self._layers(clip)
        two = bool(signs) and signs["width_mm"] < 14 and clip.random() < SECOND_PROBABILITY
        places = ((-0.27, 0.27) if two else (clip.uniform(-0.2, 0.2),)) if signs else ()  # of the width, from the middle
        self.lesions = [self._lesion(signs, place, clip) for place in places]
        self.signs = signs | {"lesions": len(self.lesions)}
        self.join()

    def _layers(self, rng: np.random.Generator) -> None:
        """Layers with wavy boundaries: fat and muscle with few bright sheets, gland with many, and dark ducts and lobules."""
        deep = self.beam_depths.max()
        wave = 0.04 * deep * self._streaks(6, 14, rng)                        # mm
        fat_mm, gland_mm = rng.uniform(0.12, 0.3) * deep + wave, rng.uniform(0.6, 0.85) * deep + 0.5 * wave
        sheets = bell(self._streaks(1.6, 6, rng), 0.1) * np.clip(self._streaks(3, 8, rng) + 0.6, 0, None)
        lobules = np.exp(rng.uniform(0.3, 0.7) * self._streaks(0.9, 2.5, rng))
        fat = rng.uniform(0.25, 0.45) * np.exp(0.15 * self._streaks(2, 4, rng)) + 2.5 * sheets
        gland = rng.uniform(0.5, 1.1) * lobules + 1.5 * sheets
        muscle = rng.uniform(0.25, 0.5) + 1.8 * bell(self._streaks(0.8, 12, rng), 0.15)
        self.amplitude = np.where(self.z < fat_mm, fat, np.where(self.z < gland_mm, gland, muscle))
        self.amplitude += 1.5 * bell(self.z - gland_mm, 0.5)                              # fascia of the muscle
        self.amplitude += 3 * bell(self.z - 0.4, 0.5) + 1.5 * bell(self.z - rng.uniform(1.5, 2.5), 0.3)     # the skin
        self.attenuation += rng.uniform(0, 0.35)

    def _lesion(self, signs: dict[str, float], place: float, rng: np.random.Generator) -> np.ndarray:
        """Put a lesion into the tissue; return the points inside it."""
        scale = rng.uniform(0.85, 1)
        half = 0.5 * scale * signs["width_mm"] * np.array([1, signs["ratio"]])            # mm, to the side and down
        deep = self.beam_depths.max()
        half[1] = min(half[1], 0.3 * deep)
        x0, z0 = place * np.ptp(self.beams[0]), max(4 + half[1], rng.uniform(0.3, 0.5) * deep)
        tilt = rng.normal(0, 0.12)
        dx, dz = self.x - x0, self.z - z0
        u, v = (dx * np.cos(tilt) + dz * np.sin(tilt)) / half[0], (dz * np.cos(tilt) - dx * np.sin(tilt)) / half[1]
        around = np.linspace(-np.pi, np.pi, 721)
        radius = np.interp(np.arctan2(v, u), around, outline(around, signs, rng))
        outside_mm = (np.hypot(u, v) - radius) * np.sqrt(half.prod())
        tissue = rng.uniform(0.9, 1.1) * signs["echo"] * np.exp((0.1 + signs["spicules"]) * self.texture(1, rng))
        inside = 1 / (1 + np.exp(np.clip(outside_mm / (0.3 * signs["margin_mm"]), -30, 30)))      # 1 to 0 over the margin
        self.amplitude += (tissue - self.amplitude) * inside
        halo = min(1, 5 * signs["spicules"])                                  # echogenic; else a thin capsule
        rim = (1 - halo) * bell(outside_mm - 0.3, 0.3) + halo * bell(outside_mm - 1.5, 1.5)
        self.amplitude += 0.8 * rim * (1 - inside)
        self.attenuation += (signs["shadow"] - signs["enhancement"]) * inside
        return outside_mm < 0

    def _streaks(self, down_mm: float, aside_mm: float, rng: np.random.Generator) -> np.ndarray:
        """A `texture` of flat structures, as in tissue under the pressure of the transducer; blurred on a coarser grid."""
        rows, columns = self.x.shape
        coarse = int(2 * rows * self.step_mm / down_mm) + 2, int(2 * columns * self.step_mm / aside_mm) + 2
        return cv2.resize(texture(coarse, 2, 2, rng), (columns, rows), interpolation=cv2.INTER_CUBIC)


def outline(angle: np.ndarray, signs: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    """The radius at angles [N], relative to the ellipse: harmonics for the lobes, narrow peaks for the spicules."""
    radius = np.ones_like(angle)
    for order in range(2, 6):
        radius += signs["lobes"] / np.sqrt(order) * rng.normal() * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    for _ in range(12):
        radius += signs["spicules"] * rng.uniform(0.3, 1) * np.exp(60 * (np.cos(angle - rng.uniform(0, 2 * np.pi)) - 1))
    return np.clip(radius, 0.4, 2)
