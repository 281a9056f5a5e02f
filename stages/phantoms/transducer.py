"""The transducer: positions of its beams and depth samples in the body, in mm."""

from typing import NamedTuple

import numpy as np

DEPTHS, BEAMS = 320, 112


class Transducer(NamedTuple):
    """Geometry of a transducer. A linear one is a convex one with a radius of ten metres."""

    radius_mm: float
    half_angle: float
    depth_mm: float
    frequency_mhz: float

    @classmethod
    def convex(cls, rng: np.random.Generator, shallowest_mm: float, deepest_mm: float) -> "Transducer":
        """A curved array; the depth of the image is drawn from the range."""
        half_angle = np.radians(rng.uniform(25, 36))
        return cls(rng.uniform(45, 62), half_angle, rng.uniform(shallowest_mm, deepest_mm), rng.uniform(2.8, 5))

    @classmethod
    def linear(cls, rng: np.random.Generator, shallowest_mm: float, deepest_mm: float) -> "Transducer":
        """A straight array of 38 to 48 mm at a higher frequency."""
        return cls(1e4, rng.uniform(19, 24) / 1e4, rng.uniform(shallowest_mm, deepest_mm), rng.uniform(7, 10))

    @property
    def depths(self) -> np.ndarray:
        """Distance of the samples from the transducer's surface in mm, [DEPTHS, 1]."""
        return np.linspace(0, self.depth_mm, DEPTHS, dtype=np.float32)[:, None]

    @property
    def wavelength_mm(self) -> float:
        """Wavelength in soft tissue, where the speed of sound is 1.54 mm per microsecond."""
        return 1.54 / self.frequency_mhz

    @property
    def step_mm(self) -> float:
        """Distance between two depth samples."""
        return self.depth_mm / (DEPTHS - 1)

    def beam_mm(self, depth_mm: float) -> float:
        """Distance between neighbouring beams at a depth."""
        return (self.radius_mm + depth_mm) * 2 * self.half_angle / (BEAMS - 1)

    def surface_mm(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance of points from the transducer's surface in mm; x: to the side, z: into the body, from the fan's corners."""
        return np.hypot(x, z + self.radius_mm * np.cos(self.half_angle)) - self.radius_mm

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """x and z of every sample in mm, each [DEPTHS, BEAMS]."""
        reach = self.radius_mm + self.depths.astype(np.float64)
        angle = np.linspace(-self.half_angle, self.half_angle, BEAMS)
        return reach * np.sin(angle), reach * np.cos(angle) - self.radius_mm * np.cos(self.half_angle)
