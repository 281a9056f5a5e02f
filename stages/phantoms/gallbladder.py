"""Gallbladder phantom: a pear-shaped lumen of bile in the liver, its wall, and stones, polyps or a tumour of the wall."""

import cv2
import numpy as np

from stages.phantoms.tissue import Body, bell
from stages.phantoms.transducer import Transducer

NAMES = ("wall_mm", "mass_mm", "stones", "polyps", "infiltration_mm", "sludge")
SIGNS = {  # class → (mildest, most severe) of each of NAMES; sludge fills a part of the lumen; the classes overlap
    "normal": ((1.2, 2.8), (0, 0.8), (0, 0), (0, 0.65), (0, 0), (0, 0.28)),
    "benign": ((1.8, 5.0), (0, 2.5), (0.3, 4), (0, 2), (0, 0.5), (0, 0.7)),
    "malignant": ((2.5, 5.5), (4, 18), (-0.6, 1.5), (0, 0.6), (0, 8), (0, 0.5)),
}
SIGNS = {label: dict(zip(NAMES, values, strict=True)) for label, values in SIGNS.items()}


class Gallbladder(Body):
    """The gallbladder of one clip, in its liver.

    Attributes:
        along, aside: position of every canvas point along and across the gallbladder's axis, mm; down: into the body, mm.
        outside_mm: distance from the edge of the lumen without a tumour, negative inside.
        bile: mask of the lumen.
    """

    def __init__(
        self, transducer: Transducer, signs: dict[str, float], patient: np.random.Generator, clip: np.random.Generator
    ):
        super().__init__(transducer, patient, clip)
        self.signs = signs
        self.amplitude *= patient.uniform(0.7, 1.1) * np.exp(0.1 * self.texture(2.5, clip))
        self._shape(clip)
        self._neighbours(clip)
        self._wall(clip)
        self._contents(clip)
        self.finish(patient)

    def _shape(self, rng: np.random.Generator) -> None:
        """Position, size and tilt of the lumen."""
        x, z = self.beams
        self.length, self.width = rng.uniform(22, 32), rng.uniform(10, 15)                 # half axes, mm
        angle, taper = rng.uniform(-0.7, 0.7), rng.uniform(0.1, 0.4)
        dx, self.down = self.x - rng.normal(0, 0.05) * np.ptp(x), self.z - rng.uniform(0.45, 0.55) * z.max()
        self.along = dx * np.cos(angle) + self.down * np.sin(angle)
        self.aside = self.down * np.cos(angle) - dx * np.sin(angle)
        width = self.width * np.maximum(1 - taper * self.along / self.length, 0.1)
        lumen = np.hypot(self.along / self.length, self.aside / width) < 1 + 0.04 * self.texture(5, rng)
        self.outside_mm = self.step_mm * (
            cv2.distanceTransform((~lumen).astype(np.uint8), cv2.DIST_L2, 5)
            - cv2.distanceTransform(lumen.astype(np.uint8), cv2.DIST_L2, 5)
        )

    def _neighbours(self, rng: np.random.Generator) -> None:
        """A vessel in the liver and, beside some gallbladders, bowel gas: a bright surface with a dirty shadow."""
        vessel = np.hypot(self.x - rng.normal(0, 30), self.z - rng.uniform(30, 110)) - rng.uniform(2, 5)
        self.amplitude *= np.clip(1 / (1 + np.exp(-vessel / 0.3)), 0.05, 1)
        if rng.random() < 0.3:
            aside = self.along - rng.choice([-1.3, 1.3]) * self.length
            gas = np.hypot(aside, self.aside - 1.1 * self.width) - rng.uniform(6, 12)     # mm from the gas
            self.amplitude += 5 * bell(gas, 1.5) * (self.outside_mm > 0)
            self.attenuation += 1.2 * (gas < 0)

    def _wall(self, rng: np.random.Generator) -> None:
        """The wall and the bile that it encloses. A tumour is irregular, on one side of the wall, and grows in and out."""
        irregular, outside = self.texture(2.5, rng), self.outside_mm
        towards = np.cos(np.arctan2(self.aside / self.width, self.along / self.length) - rng.uniform(0, 2 * np.pi))
        ragged = 0.35 * irregular if self.signs["mass_mm"] > 2.5 else 0
        mass = self.signs["mass_mm"] * np.clip(towards + ragged, 0, None) ** 2            # mm into the lumen
        thickness = self.signs["wall_mm"] * (1 + 0.05 * irregular)
        invaded = np.exp(-np.maximum(outside - thickness, 0) / max(self.signs["infiltration_mm"], 0.1))
        self.amplitude *= np.where(mass > 1.5, 1 - 0.65 * invaded, 1)
        self.bile, wall = outside < -mass, (outside >= -mass) & (outside < thickness)
        tumour = rng.uniform(0.5, 1.1) * np.exp(0.35 * irregular)
        self.amplitude = np.where(wall, np.where(mass > 1.5, tumour, rng.uniform(1.8, 3)), self.amplitude)
        clutter = 0.25 * np.exp(-np.maximum(self.width + self.down, 0) / 3)               # reverberation, near side
        self.amplitude = np.where(self.bile, 0.02 + clutter, self.amplitude)
        self.attenuation -= 0.12 * self.bile                                              # enhancement below

    def _contents(self, rng: np.random.Generator) -> None:
        """Sludge in the deep part; stones on the floor, with clean shadows; polyps on the wall, without shadows."""
        if self.signs["sludge"] > 0.25:
            self.amplitude[self.bile & (self.down > self.width * (0.9 - self.signs["sludge"]))] = 0.45
        rim = np.argwhere(self.bile & (self.outside_mm > -1.5))
        if not len(rim):                                                      # filled by the tumour: nothing to hold
            return
        for _ in range(self.signs["polyps"]):
            polyp = self._from(*rng.choice(rim)) < rng.uniform(1.5, 4)
            self.amplitude[polyp & (self.outside_mm < 1)] = 1.4
        for _ in range(self.signs["stones"]):
            column, radius = rng.choice(rim)[1], rng.uniform(2, 5)
            floor = np.flatnonzero(self.bile[:, column])[-1] - int(0.8 * radius / self.step_mm)
            stone = self._from(floor, column) - radius                                    # mm outside the stone
            face = self.z < self.z[floor, 0] - 0.2 * radius
            self.amplitude += 6 * ((stone < 0) & (stone > -1.6) & face)
            self.attenuation += 4.0 * (stone < 0)

    def _from(self, row: int, column: int) -> np.ndarray:
        """Distance of every canvas point from one of them, mm."""
        return np.hypot(self.x - self.x[row, column], self.z - self.z[row, column])
