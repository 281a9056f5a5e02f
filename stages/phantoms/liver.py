"""Liver phantom: parenchyma with vessels, capsule and diaphragm. The texture is coarser at higher stages of fibrosis."""

import numpy as np

from stages.phantoms.tissue import Body, bell
from stages.phantoms.transducer import Transducer

SCENES = ("Rb1", "Rb2", "Rb3", "Rb4", "Rb5")


class Liver(Body):
    """The liver of one clip.

    Args:
        scene: Rb1 one large vessel, Rb2 several small ones, Rb3 one along the image plane, Rb4 two that cross, Rb5 two
            near the diaphragm.
        fibrosis: stage from 0 to 4; the stage of the clip is drawn around it.
    """

    def __init__(
        self, transducer: Transducer, scene: str, fibrosis: float, patient: np.random.Generator, clip: np.random.Generator
    ):
        super().__init__(transducer, patient, clip)
        self.clip = clip
        self.signs = {"fibrosis": round(float(np.clip(fibrosis + clip.normal(0, 0.4), 0, 4)), 2), "vessels": 0}
        self._parenchyma(self.signs["fibrosis"])
        for _ in range(clip.integers(1, 4)):                                  # small branches that every liver shows
            self._vessel(*self._place(0.9), clip.uniform(1, 2), portal=True)
        getattr(self, f"_{scene.lower()}")()
        self.finish(patient)

    def _parenchyma(self, stage: float) -> None:
        """Homogeneous when healthy. Fibrosis makes it heterogeneous, nodular at the surface, and more attenuating."""
        self.amplitude *= np.exp((0.05 + 0.1 * stage) * self.texture(3.2, self.clip))
        self.amplitude *= np.exp(0.05 * stage * self.texture(1.2, self.clip))
        self.attenuation += 0.02 * stage
        surface = self.wall_mm + 2 + 0.35 * stage * self.texture(4, self.clip)
        self.amplitude += 3 * bell(self.skin_mm - surface, 0.6)                           # capsule

    def _vessel(self, x_mm: float, z_mm: float, radius_mm: float, angle: float | None = None, portal: bool = False):
        """A vessel without echo: a cross-section or, with an angle, a tapering tube. Portal veins have bright walls."""
        x, z = self.x - x_mm, self.z - z_mm
        if angle is None:
            outside = np.hypot(x, 1.15 * z) - radius_mm
        else:
            along, aside = x * np.cos(angle) + z * np.sin(angle), z * np.cos(angle) - x * np.sin(angle)
            outside = np.abs(aside + 0.002 * along**2) - np.clip(radius_mm * (1 - along / 70), 0.2, 2 * radius_mm)
        outside += 0.1 * radius_mm * self.texture(5, self.clip)                           # mm
        self.amplitude *= np.clip(1 / (1 + np.exp(-outside / 0.25)), 0.03, 1)
        self.amplitude += (1.8 if portal else 0.4) * bell(outside - 0.8, 0.9)
        self.attenuation -= 0.1 * (outside < 0)                                           # enhancement below
        self.signs["vessels"] += 1

    def _place(self, spread: float = 0.4) -> tuple[float, float]:
        """A random point near the middle of the field of view: x, z in mm."""
        x, z = self.beams
        down = 0.35 + self.clip.uniform(0, 0.4) * spread**0.5
        return self.clip.uniform(-0.3, 0.3) * spread * np.ptp(x), down * z.max()

    def _rb1(self) -> None:
        self._vessel(*self._place(), self.clip.uniform(6, 11))

    def _rb2(self) -> None:
        for _ in range(self.clip.integers(3, 7)):
            self._vessel(*self._place(0.7), self.clip.uniform(2.5, 5), portal=self.clip.random() < 0.4)

    def _rb3(self) -> None:
        self._vessel(*self._place(), self.clip.uniform(3, 6), angle=self.clip.uniform(-0.7, 0.7))

    def _rb4(self) -> None:
        x, z = self._place()
        for angle in (self.clip.uniform(-0.9, -0.3), self.clip.uniform(0.2, 0.8)):
            self._vessel(x, z, self.clip.uniform(2.5, 4.5), angle=angle, portal=True)

    def _rb5(self) -> None:
        for _ in range(2):
            self._vessel(*self._place(), self.clip.uniform(2, 5), portal=self.clip.random() < 0.4)
        radius, centre, lowest = self.clip.uniform(60, 110), self.clip.normal(0, 15), 0.82 * self.beams[1].max()
        behind = np.hypot(self.x - centre, self.z - lowest + radius) - radius             # mm behind the diaphragm
        self.amplitude *= np.where(behind > 0, 0.35, 1)                                   # the liver's mirror image
        self.amplitude += 6 * bell(behind, 1.1)
