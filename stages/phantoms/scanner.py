"""The scanner: a field of scatterers in beam coordinates → a B-mode frame with fan, texts and depth scale.

Point-spread function, noise, envelope, log compression, scan conversion and overlay, in this order. Fields are complex
numbers as float32 [DEPTHS, BEAMS, 2] (real and imaginary part, the two channels of an OpenCV image); baseband, so that
the carrier does not appear. Lengths are millimetres, amplitudes relative to parenchyma of unit power.
"""

import cv2
import numpy as np

from stages.phantoms.transducer import BEAMS, DEPTHS, Transducer

ZONE = 16  # depth samples that share one lateral point-spread function
ALONE = np.ones(1, np.float32)  # the kernel that does not blur a direction
TINTS = ((1, 1, 1), (1, 1, 1), (0.88, 0.94, 1), (1, 0.95, 0.85))  # blue, green, red: grey, grey, sepia, bluish
PRESETS = ("ABDOMEN", "LUNG", "GENERAL", "2D THI", "RES/SPD", "B-MODE")
TEXTS = {"GN {:.0f} dB": (30, 80), "DR {:.0f}": (40, 90), "FR {:.0f} Hz": (10, 60), "MI {:.1f}": (0.4, 1.4)}


class Scanner:
    """A transducer, its settings and its screen. `patient` draws what the clips of a patient share, `clip` the rest.

    Attributes:
        fan: the pixels that show the body, bool [height, width].
        overlay: grey level of texts and scale, uint8 [height, width], 0 inside the fan.
    """

    def __init__(self, transducer: Transducer, patient: np.random.Generator, clip: np.random.Generator):
        self.transducer = transducer
        self.noise = clip.spawn(1)[0]
        self.gain_db = patient.normal(0, 2.5) + clip.normal(0, 1)
        self.dynamic_range_db = patient.uniform(50, 64)
        self.gamma = patient.uniform(0.85, 1.25)
        self.compounding = patient.uniform(0.4, 1.1)
        # the attenuation that remains after time gain compensation, and the electronic noise, which it amplifies with depth
        part = transducer.depths / transducer.depth_mm
        coupling_db = 2 * cv2.GaussianBlur(clip.standard_normal((1, BEAMS)), (0, 0), 6) * 6**0.5
        self.tissue_gain = 10 ** ((patient.normal(-5, 3) * part + coupling_db) / 20)      # DEPTHS x BEAMS
        self.noise_gain = 10 ** ((patient.uniform(-52, -40) + 22 * part) / 20)            # DEPTHS x 1
        self.colours = (np.arange(256)[:, None] * patient.choice(TINTS)).astype(np.uint8)
        self._point_spread(patient.uniform(0.3, 0.7) * transducer.depth_mm)
        self._screen(patient)

    def _point_spread(self, focus_mm: float) -> None:
        """Gaussian pulse of about two cycles; the lateral width grows with the distance from the focus.

        The kernels have unit energy: scatterers of unit power give an echo of unit power at every depth.
        """
        self.axial = unit_gaussian(max(0.9, self.transducer.wavelength_mm / self.transducer.step_mm))
        self.lateral = []
        for top in range(0, DEPTHS, ZONE):
            depth = (top + ZONE / 2) * self.transducer.step_mm
            width = 1.2 * self.transducer.wavelength_mm * np.hypot(1, (depth - focus_mm) / (0.45 * focus_mm))
            self.lateral.append((slice(top, top + ZONE), unit_gaussian(max(0.7, width / self.transducer.beam_mm(depth)))))

    def _screen(self, rng: np.random.Generator) -> None:
        """Frame size, scan conversion map, texts and depth scale."""
        x, z = self.transducer.positions()
        self.width = 2 * int(rng.integers(100, 190))                                      # even, as codecs want it
        self.height = 2 * int(np.clip(self.width * np.ptp(z) / np.ptp(x) * rng.uniform(0.95, 1.15), 200, 400) / 2)
        fill = rng.uniform(0.84, 1.14)                                  # above 1: the clip was cropped into the fan
        scale = fill * min(self.width / np.ptp(x), self.height / np.ptp(z))               # px per mm
        left = self.width * rng.uniform(0.46, 0.54)
        top = max(2, (self.height - scale * np.ptp(z)) * rng.uniform(0.2, 0.8))
        column, row = np.meshgrid(np.arange(self.width), np.arange(self.height))
        x, z = (column - left) / scale, (row - top) / scale
        angle = np.arctan2(x, z + self.transducer.radius_mm * np.cos(self.transducer.half_angle))
        beam = (angle / self.transducer.half_angle + 1) / 2 * (BEAMS - 1)
        sample = self.transducer.surface_mm(x, z) / self.transducer.step_mm
        self.fan = (beam >= 0) & (beam <= BEAMS - 1) & (sample >= 0) & (sample <= DEPTHS - 1)
        self.maps = beam.astype(np.float32), sample.astype(np.float32)
        self.overlay = np.zeros((self.height, self.width), np.uint8)
        if fill < 1:
            self._texts(rng, top, scale)
            self.overlay[cv2.dilate(self.fan.astype(np.uint8), np.ones((3, 3))) > 0] = 0

    def _texts(self, rng: np.random.Generator, top: float, scale: float) -> None:
        """Invented settings in one corner, a mark in the other, and a depth scale with a tick per centimetre."""
        size, bright, right = max(0.3, self.height / 900), int(rng.integers(140, 256)), self.width - 3

        def write(text: str, x: int, y: int) -> None:
            cv2.putText(self.overlay, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, bright, 1, cv2.LINE_AA)

        write(rng.choice(PRESETS), 4, int(34 * size))
        for line, text in enumerate(rng.choice(list(TEXTS), rng.integers(2, 5), replace=False)):
            write(text.format(rng.uniform(*TEXTS[text])), 4, int((70 + 32 * line) * size))
        if rng.random() < 0.5:
            cv2.circle(self.overlay, (right - 13, 14), 7, bright, 2, cv2.LINE_AA)
            cv2.line(self.overlay, (right - 18, 19), (right - 8, 9), bright, 2, cv2.LINE_AA)
        for centimetre in range(int(self.transducer.depth_mm / 10) + 1):
            y, length = round(top + centimetre * 10 * scale), 3 if centimetre % 5 else 7
            cv2.line(self.overlay, (right - length, y), (right, y), bright, 1)

    def echo(self, field: np.ndarray) -> np.ndarray:
        """Scatterers convolved with the point-spread function: complex echo [DEPTHS, BEAMS, 2]."""
        echo = np.empty_like(field)
        for rows, kernel in self.lateral:
            echo[rows] = cv2.sepFilter2D(field[rows], -1, kernel, ALONE)
        return cv2.sepFilter2D(echo, -1, ALONE, self.axial)

    def frame(self, field: np.ndarray) -> np.ndarray:
        """One B-mode frame, uint8 [height, width, 3] in OpenCV's order of colours, of a field [DEPTHS, BEAMS, 2].

        Where many scatterers share a resolution cell the envelope is Rayleigh distributed (Wagner et al., IEEE Trans.
        Sonics Ultrason. 1983); the scanner's compounding averages neighbouring intensities, and log compression turns
        the multiplicative speckle into an additive one.
        """
        noise = self.noise.standard_normal(field.shape, dtype=np.float32) * self.noise_gain[..., None]
        echo = self.echo(field) * self.tissue_gain[..., None] + noise
        intensity = cv2.GaussianBlur(np.sum(echo**2, axis=2), (0, 0), self.compounding)
        level_db = 10 * np.log10(intensity + 1e-12) + self.gain_db      # no echo: −120 dB
        grey = np.clip(level_db / self.dynamic_range_db + 0.62, 0, 1) ** self.gamma
        image = cv2.remap((255 * grey).astype(np.uint8), *self.maps, cv2.INTER_LINEAR)
        return self.colours[np.where(self.fan, image, self.overlay)]

    def shown(self, region: np.ndarray) -> np.ndarray:
        """The pixels that show a region of the body: bool [DEPTHS, BEAMS] → bool [height, width]."""
        part = cv2.remap(region.astype(np.float32), *self.maps, cv2.INTER_LINEAR)
        return self.fan & (part > 0.5)


def unit_gaussian(sigma: float) -> np.ndarray:
    """A Gaussian kernel of unit energy (sum of squares 1)."""
    kernel = cv2.getGaussianKernel(2 * int(np.ceil(3 * sigma)) + 1, sigma)
    return (kernel / np.linalg.norm(kernel)).astype(np.float32)
