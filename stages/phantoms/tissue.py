"""Shared by lung, liver, gallbladder and breast: signs, scatterers, textures, the body wall, breathing, and a moving body.

A clip has ONE field of scatterers. Motion resamples it and draws nothing new, so the speckle moves with the tissue, as
in the body.
"""

import cv2
import numpy as np

from stages.phantoms.transducer import Transducer

COUNTED = ("b_lines", "consolidations", "bronchograms", "stones", "polyps")


def draw_signs(mild_and_severe: dict, severity: float, rng: np.random.Generator) -> dict[str, float]:
    """The signs of one clip, drawn at random around the values of its severity (0 to 1).

    Args:
        mild_and_severe: sign → its value in the mildest and in the most severe clip of the class. Values below 0 become 0.

    Returns:
        sign → value, a whole number for the signs in COUNTED.
    """
    signs = {}
    for name, (mild, severe) in mild_and_severe.items():
        value = max(0.0, mild + (severe - mild) * float(np.clip(severity + rng.normal(0, 0.18), 0, 1)))
        signs[name] = round(value) if name in COUNTED else round(value, 2)
    return signs


def scatterers(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Many random scatterers per cell: complex Gaussian numbers of unit mean power, float32 [rows, columns, 2].

    The field is slightly band-limited, so that resampling between its points keeps the power.
    """
    field = cv2.GaussianBlur(rng.standard_normal((*shape, 2), dtype=np.float32), (0, 0), 0.7)
    return field / np.sqrt(2 * np.mean(field**2))


def texture(shape: tuple[int, int], rows: float, columns: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth random map of mean 0 and standard deviation 1, float32; `rows`, `columns`: correlation length."""
    noise = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), sigmaX=columns, sigmaY=rows)
    return (noise - noise.mean()) / noise.std()


def resample(canvas: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Values of a canvas [H, W, channels] at fractional rows and columns of equal shape, mirrored at its edges."""
    rows, columns = rows.astype(np.float32), columns.astype(np.float32)
    return cv2.remap(canvas, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def bell(distance: np.ndarray, width: float) -> np.ndarray:
    """exp(-(distance / width)²): a soft line, edge or spot."""
    return np.exp(-np.square(distance / width))


def body_wall(shape: tuple[int, int], step_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Echo amplitude of skin, fat with septa, and striated muscle, float32; a row is `step_mm` deep."""
    rows, columns = shape
    depth = np.linspace(0, 1, rows, dtype=np.float32)[:, None] + 0.03 * texture(shape, rows / 4, columns / 4, rng)
    fat_ends = rng.uniform(0.25, 0.6)
    septa = np.clip(texture(shape, 0.6 / step_mm, columns / 9, rng) - 1.4, 0, None)
    fat = rng.uniform(0.35, 0.8) + rng.uniform(1, 3) * septa
    muscle = rng.uniform(0.5, 1.0) * np.exp(rng.uniform(0.5, 0.9) * texture(shape, 0.5 / step_mm, columns / 7, rng))
    skin, fascia = bell(depth, 0.06), bell((depth - fat_ends) * rows * step_mm, 0.6)
    return np.where(depth < fat_ends, fat, muscle) + 3 * skin + 2.5 * fascia


class Breathing:
    """Breathing, and the drift of the hand-held transducer, as functions of time."""

    def __init__(self, rng: np.random.Generator):
        self.period_s, self.phase = rng.uniform(2.2, 4.5), rng.uniform(0, np.pi)
        self.drift_phase, self.drift_hz = rng.uniform(0, 2 * np.pi, (2, 3)), rng.uniform(0.1, 0.7, (2, 3))

    def inhaled(self, time_s: float) -> float:
        """0 at the end of expiration, 1 at full inspiration (Lujan et al., Med. Phys. 1999: a power of the cosine)."""
        return 1 - np.cos(np.pi * time_s / self.period_s + self.phase) ** 4

    def drift_mm(self, time_s: float) -> np.ndarray:
        """How far the hand has moved the transducer: (lateral, axial), about a millimetre."""
        return np.sin(2 * np.pi * self.drift_hz * time_s + self.drift_phase).mean(axis=1) * (1.5, 0.4)


class Body:
    """Tissue on a canvas in mm that breathes under the transducer. `field(time)` is the tissue along the beams.

    Attributes:
        x, z: position of every canvas point in mm, [rows, columns]; skin_mm: its distance from the transducer's surface.
        step_mm: distance of neighbouring canvas points.
        amplitude: echo amplitude, [rows, columns]; set by the subclass.
        attenuation: two-way, in dB per mm, beyond what the time gain compensates, [rows, columns]; set by the subclass.
    """

    MARGIN_MM = 16.0  # of the canvas around the fan, because breathing moves tissue in and out

    def __init__(self, transducer: Transducer, patient: np.random.Generator, clip: np.random.Generator):
        self.step_mm, self.beam_depths, self.beams = transducer.step_mm, transducer.depths, transducer.positions()
        x, z = self.beams
        self.x, self.z = np.meshgrid(
            np.arange(x.min() - self.MARGIN_MM, x.max() + self.MARGIN_MM, self.step_mm, dtype=np.float32),
            np.arange(-self.MARGIN_MM, z.max() + self.MARGIN_MM, self.step_mm, dtype=np.float32),
        )
        self.skin_mm = transducer.surface_mm(self.x, self.z)
        self.breathing = Breathing(clip)
        self.excursion_mm = clip.uniform(-10, 10), clip.uniform(0.5, 3)                   # lateral, axial
        self.amplitude, self.attenuation = np.ones_like(self.x), np.zeros_like(self.x)
        self.wall_mm = patient.uniform(9, 18)
        self.scatterers = scatterers(self.x.shape, clip)

    def texture(self, size_mm: float, rng: np.random.Generator) -> np.ndarray:
        """A `texture` of the canvas with structures of this size."""
        return texture(self.x.shape, size_mm / self.step_mm, size_mm / self.step_mm, rng)

    def finish(self, rng: np.random.Generator) -> None:
        """Lay the abdominal wall over the tissue, along the transducer's surface, and `join`."""
        wall = body_wall((int(self.wall_mm / self.step_mm) + 1, self.x.shape[1]), self.step_mm, rng)
        columns = np.broadcast_to(np.arange(self.x.shape[1]), self.x.shape)
        wall = resample(wall, self.skin_mm / self.step_mm, columns)
        self.amplitude = np.where(self.skin_mm < self.wall_mm, wall, self.amplitude)
        self.amplitude += 2.5 * bell(self.skin_mm - self.wall_mm, 0.7)                    # the last fascia
        self.join()

    def join(self) -> None:
        """Put everything that `field` resamples into one array. A subclass calls it last."""
        self.canvas = np.dstack([self.scatterers * self.amplitude[..., None], self.attenuation]).astype(np.float32)

    def field(self, time_s: float) -> np.ndarray:
        """Scatterers in beam coordinates at a time, attenuated by the tissue above them, float32 [DEPTHS, BEAMS, 2].

        Shadows and posterior enhancement are not drawn: they follow from the sum of the attenuation along each beam.
        """
        met = resample(self.canvas, *self.places(time_s))
        loss_db = np.cumsum(met[..., 2], axis=0) * self.step_mm
        return met[..., :2] * (10 ** (-loss_db / 20))[..., None]

    def places(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the canvas at the samples of the beams, at a time, each [DEPTHS, BEAMS]."""
        x, z = self.beams
        inhaled, (drift, press) = self.breathing.inhaled(time_s), self.breathing.drift_mm(time_s)
        below_wall = np.clip(self.beam_depths / self.wall_mm - 1, 0, 1)       # organs slide under the wall
        across = x + drift + below_wall * inhaled * self.excursion_mm[0]
        down = z + press * np.clip(self.beam_depths / self.wall_mm, 0, 1) + below_wall * inhaled * self.excursion_mm[1]
        return (down - self.z[0, 0]) / self.step_mm, (across - self.x[0, 0]) / self.step_mm
