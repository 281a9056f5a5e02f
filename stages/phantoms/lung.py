"""Lung phantom: chest wall, a sliding pleural line, and the tissue and artefacts below it.

Below aerated pleura the image shows only artefacts. A-lines: the pleura reflects almost all sound and the face of the
transducer reflects it again, so the chest wall repeats at multiples of the pleural depth, each time weaker. B-lines:
fluid between air bubbles traps the pulse, which rings down from the pleura to the bottom of the image and hides the
A-lines (Soldati et al., J. Ultrasound Med. 2019). A consolidation has lost its air: it looks like tissue, with bright
bronchograms where air is left, and with a shredded border that has short comet tails.
"""

import numpy as np

from stages.phantoms.tissue import Breathing, bell, body_wall, resample, scatterers, texture
from stages.phantoms.transducer import BEAMS, DEPTHS, Transducer

NAMES = ("a_lines", "b_lines", "irregularity_mm", "consolidations", "consolidation_mm", "bronchograms", "effusion_mm")
SIGNS = {  # class → (mildest, most severe) of each of NAMES; A-lines 0 to 1; neighbouring classes overlap
    "regular": ((1.0, 0.4), (-0.8, 1.6), (0.1, 0.4), (0, 0.55), (2, 4), (0, 0), (0, 0)),
    "covid": ((0.6, 0.0), (1.4, 7), (0.4, 1.6), (0, 3), (2, 9), (0, 1), (0, 0)),
    "pneumonia": ((0.4, 0.0), (0, 3), (0.2, 0.9), (1, 2), (12, 45), (3, 20), (-2, 4)),
    "viral": ((0.6, 0.1), (1, 5), (0.2, 1.2), (0, 2), (3, 14), (0, 4), (0, 0)),
    "a_lines": ((1.0, 0.4), (-1, 0.6), (0.1, 0.4), (0, 0), (0, 0), (0, 0), (0, 0)),
    "b_lines": ((0.5, 0.0), (1, 7), (0.1, 0.8), (0, 0), (0, 0), (0, 0), (0, 0)),
    "pleural": ((0.8, 0.2), (0, 2), (0.6, 2.2), (0, 3), (2, 7), (0, 0), (-1, 3)),
    "other": ((0.3, 0.0), (0, 1), (0.1, 0.8), (0, 2), (8, 35), (0, 8), (2, 30)),
}
SIGNS = {label: dict(zip(NAMES, values, strict=True)) for label, values in SIGNS.items()}
MIRRORED = 0.55  # largest amplitude that remains after one more reflection between pleura and transducer


class Lung:
    """The lung of one clip. The clips of a patient share chest wall and ribs.

    Chest wall and lung are two canvases [rows, columns], with a row per depth sample and a column per beam. The lung
    slides along the chest wall.
    """

    def __init__(self, transducer: Transducer, signs: dict, patient: np.random.Generator, clip: np.random.Generator):
        self.transducer, self.signs, self.depths = transducer, signs, transducer.depths
        self.line_mm = 1.7 * transducer.wavelength_mm                              # thickness of a specular line
        self.pleura_mm = patient.uniform(0.15, 0.21) * transducer.depth_mm
        self.beam_mm = transducer.beam_mm(self.pleura_mm)
        self.breathing = Breathing(clip)
        self.slide_mm, self.rise_mm = clip.choice([-1, 1]) * clip.uniform(3, 9), clip.uniform(0.3, 1.2)
        self.margin = int(np.ceil(12 / self.beam_mm))                         # columns that slide in and out of the fan
        self.width = BEAMS + 2 * self.margin
        self.columns = np.arange(BEAMS, dtype=np.float32)[None]                           # 1 x BEAMS
        self.across = self.columns / BEAMS - 0.5
        self._chest(patient, clip)
        self._surface(clip)
        self._inside(clip)

    def _chest(self, patient: np.random.Generator, clip: np.random.Generator) -> None:
        """Wall and scatterers down to the pleura, the course of the pleura, its angle to the transducer, and ribs."""
        shape = int(self.pleura_mm / self.transducer.step_mm) + 2, self.width
        self.wall = scatterers(shape, patient) * body_wall(shape, self.transducer.step_mm, patient)[..., None]
        self.course = clip.normal(0, 2.5) * self.across + patient.normal(0, 3) * (self.across**2 - 0.08)     # mm
        facing = bell(self.across - clip.normal(0, 0.12), clip.uniform(0.2, 0.5))
        self.a_lines = MIRRORED * self.signs["a_lines"] * facing                          # 1 x BEAMS
        self.rib_width, spacing = patient.uniform(0.09, 0.14), patient.uniform(0.36, 0.6)
        self.ribs = spacing * np.array([-1, 1]) + clip.normal(0, 0.08) if patient.random() < 0.6 else ()

    def _surface(self, rng: np.random.Generator) -> None:
        """What moves with the surface of the lung, [columns]: sheen, irregularity, consolidations; and its B-lines."""
        def along(size_mm: float) -> np.ndarray:
            return texture((1, self.width), 1, size_mm / self.beam_mm, rng)[0]

        signs, column = self.signs, np.arange(self.width)
        self.sheen = np.exp(0.35 * along(1.5))
        self.shreds = np.clip(along(1.2), 0, None)
        self.irregular = signs["irregularity_mm"] * along(3)                              # mm
        thickness = np.zeros(self.width)                                                  # of consolidations, mm
        for _ in range(signs["consolidations"]):
            thick, centre = signs["consolidation_mm"] * rng.uniform(0.6, 1), rng.uniform(0.35, 0.65) * self.width
            half_width = max(4, thick * rng.uniform(0.8, 1.3)) / self.beam_mm
            thickness = np.maximum(thickness, thick * bell(np.abs(column - centre) ** 2, half_width**2))
        self.thickness = np.clip(thickness * (1 + 0.14 * along(2) + 0.08 * along(0.8)) - 0.8, 0, None)
        fewest = 0.12 * self.width, 0.7 / self.beam_mm, 0.7, 0                # column, width, strength, phase
        most = 0.88 * self.width, 2.6 / self.beam_mm, 2, 6
        self.b_lines = rng.uniform(fewest, most, (signs["b_lines"], 4))
        self.ring_mm = np.inf if signs["b_lines"] > 2 else rng.uniform(15, 120)           # a lone B-line may be short

    def _inside(self, rng: np.random.Generator) -> None:
        """Canvas of the lung: scatterers, ring-down noise (wider than a beam), and amplitude of consolidated tissue."""
        shape, signs, step_mm = (DEPTHS, self.width), self.signs, self.transducer.step_mm
        self.haze, self.haze_mm = rng.uniform(0.05, 0.12), rng.uniform(20, 50)
        solid = rng.uniform(0.35, 0.7) * np.exp(0.2 * texture(shape, 4, 4, rng))
        row, column = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        for _ in range(signs["bronchograms"]):
            depth = signs["consolidation_mm"] * rng.uniform(0.15, 0.85)
            aside = rng.normal(0, 0.35) * max(10, signs["consolidation_mm"])
            z, x = row * step_mm - depth, (column - np.argmax(self.thickness)) * self.beam_mm - aside
            angle, length = rng.normal(0, 0.7), rng.uniform(1, 5)
            along, across = x * np.sin(angle) + z * np.cos(angle), x * np.cos(angle) - z * np.sin(angle)
            solid += rng.uniform(2, 6) * bell(along, length) * bell(across, 0.8)
        ring = [texture(shape, 0.7, 5 / self.beam_mm, rng) for _ in range(2)]
        self.canvas = np.dstack([scatterers(shape, rng), *ring, solid]).astype(np.float32)

    def field(self, time_s: float) -> np.ndarray:
        """Scatterers in beam coordinates at a time, float32 [DEPTHS, BEAMS, 2]."""
        inhaled, (drift, press) = self.breathing.inhaled(time_s), self.breathing.drift_mm(time_s)
        over_wall = self.columns + self.margin + drift / self.beam_mm                     # its column, 1 x BEAMS
        over_lung = over_wall + self.slide_mm * inhaled / self.beam_mm
        sheen, shreds, irregular, thickness = (
            np.interp(over_lung, np.arange(self.width), values)
            for values in (self.sheen, self.shreds, self.irregular, self.thickness)
        )
        pleura = self.pleura_mm + self.course + press + self.rise_mm * inhaled + irregular            # mm, 1 x BEAMS
        effusion = self.signs["effusion_mm"] * (1 - 0.2 * inhaled)
        below = self.depths - pleura - effusion                                           # mm under the lung's surface
        beyond = below - thickness                                                        # mm under what has no air
        ringing = self._ringing(beyond, over_lung, time_s) + shreds * (thickness > 1) * (beyond > 0) * bell(beyond, 9)

        turns = np.floor(self.depths / pleura)                                # of the pulse between pleura and transducer
        wall_row = (self.depths / pleura - turns) * (len(self.wall) - 1)
        wall = resample(self.wall, wall_row, np.broadcast_to(over_wall, below.shape))
        lung = resample(self.canvas, np.maximum(below, 0) / self.transducer.step_mm, np.broadcast_to(over_lung, below.shape))
        clear = np.exp(-ringing - thickness / 3) * (effusion < 1)             # where nothing covers the A-lines
        field = wall * np.where(turns == 0, 1, self.a_lines**turns * clear)[..., None]
        aerated = self.haze * np.exp(-np.maximum(below, 0) / self.haze_mm) * (beyond > 0)
        field += lung[..., :2] * (lung[..., 4] * (below > 0) * (beyond <= 0) + aerated + 0.5 * ringing)[..., None]
        field += lung[..., 2:4] * ringing[..., None]

        turn = np.maximum(np.round(self.depths / pleura), 1)                  # the pleural line and its echoes
        line = 7 * sheen * bell(self.depths - turn * pleura, self.line_mm) * self.a_lines ** (turn - 1)
        border = 5 * shreds * bell(beyond, self.line_mm) * ((thickness > 1) | (effusion > 1))
        field[..., 0] += line * np.where(turn == 1, np.exp(-thickness / 15), clear) + border
        return field * self._ribs()[..., None]

    def _ringing(self, beyond: np.ndarray, over_lung: np.ndarray, time_s: float) -> np.ndarray:
        """Amplitude of all B-lines, [DEPTHS, BEAMS]: narrow bands from the surface down, which flicker as the lung slides."""
        ringing = np.zeros_like(beyond)
        for column, width, strength, phase in self.b_lines:
            ringing += strength * (0.75 + 0.25 * np.sin(3 * time_s + phase)) * bell(over_lung - column, width)
        return ringing * (beyond > 0) * np.exp(-np.maximum(beyond, 0) / self.ring_mm)

    def _ribs(self) -> np.ndarray:
        """Bright surfaces of ribs and their shadows, as a factor [DEPTHS, BEAMS]."""
        factor = np.ones((DEPTHS, BEAMS), np.float32)
        for centre in self.ribs:
            offset = (self.across - centre) / self.rib_width
            below = self.depths - self.pleura_mm * (0.62 + 0.25 * offset**2)              # mm
            under = 1 / (1 + np.exp(12 * (np.abs(offset) - 1)))
            factor *= 1 - 0.97 * under * np.clip(below / 2.5, 0, 1)
            factor += 4 * under * bell(below, self.line_mm)
        return factor
