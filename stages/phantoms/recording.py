"""One phantom clip: patient, transducer, frames, file or folder, and line of truth."""

import errno
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from stages.phantoms.breast import SIGNS as BREAST_SIGNS
from stages.phantoms.breast import Breast
from stages.phantoms.gallbladder import SIGNS as GALLBLADDER_SIGNS
from stages.phantoms.gallbladder import Gallbladder
from stages.phantoms.liver import SCENES, Liver
from stages.phantoms.lung import SIGNS as LUNG_SIGNS
from stages.phantoms.lung import Lung
from stages.phantoms.scanner import Scanner
from stages.phantoms.tissue import draw_signs, resample
from stages.phantoms.transducer import Transducer

CODECS = {"mp4": "mp4v", "mov": "mp4v", "avi": "MJPG"}
RATES_HZ = (10, 12.5, 15, 20, 25, 30, 40, 50)
GIF_RATES_HZ = (10, 12.5, 20, 25, 50)  # whole hundredths of a second from frame to frame


class Clip(NamedTuple):
    """A clip to make.

    Attributes:
        path: below the source's folder: a video, a jpg or png (one frame), or, without suffix, a folder of images.
        patient: clips of one patient look alike; '' for a patient with no other clip.
        scene: the kind of phantom: a key of the SIGNS of lung, gallbladder or breast, a liver scene, or a stage of fibrosis.
        transducer: convex or linear.
    """

    source: str
    path: str
    patient: str
    label: str
    scene: str
    transducer: str = "convex"


def record(clip: Clip, folder: Path, seed: int, seconds: float, max_frames: int) -> dict:
    """Simulate a clip, write it below `folder`, and return its line of truth.

    The random numbers of a clip come from the seed and its path, those of a patient from the seed and the patient's name:
    they do not depend on other clips. `seconds` is the mean length; a longer clip is cut to `max_frames`.
    """
    rng = np.random.default_rng([seed, *f"{clip.source}/{clip.path}".encode()])
    severity = rng.uniform()
    phantom, scanner = scan(clip, severity, seed, rng)
    suffix = Path(clip.path).suffix[1:].lower()
    fps = float(rng.choice(GIF_RATES_HZ if suffix == "gif" else RATES_HZ))
    count = 1 if suffix in ("jpg", "png") else min(max_frames, max(2, round(fps * seconds * rng.uniform(0.6, 1.4))))
    frames = [scanner.frame(phantom.field(index / fps)) for index in range(count)]
    if count > 1 and rng.random() < 0.15:
        frames[0] = np.zeros_like(frames[0])                                  # as some scanners and editors leave it
    images = "png" if clip.source == "clust" else rng.choice(["jpg", "png"])
    write(folder / clip.source / clip.path, frames, fps, images)
    if clip.source == "breast":
        write_masks(folder / clip.source / clip.path, phantom, scanner)
    facts = {"severity": round(severity, 3), "fps": fps if count > 1 else None, "frames": count, "duplicate_of": ""}
    return clip._asdict() | {"path": clip.path.removesuffix("/Data")} | facts | phantom.signs


def scan(clip: Clip, severity: float, seed: int, rng: np.random.Generator):
    """The phantom and the scanner of a clip. `rng` draws what differs between the clips of a patient."""
    patient = np.random.default_rng([seed, *f"{clip.source}/{clip.patient or clip.path}".encode(), 0])
    if clip.source == "gallbladder":
        transducer = Transducer.convex(patient, 75, 105)
        phantom = Gallbladder(transducer, draw_signs(GALLBLADDER_SIGNS[clip.scene], severity, rng), patient, rng)
    elif clip.source == "breast":
        transducer = Transducer.linear(patient, 32, 48)
        phantom = Breast(transducer, draw_signs(BREAST_SIGNS[clip.scene], severity, rng), patient, rng)
    elif clip.source == "clust":
        transducer = Transducer.convex(patient, 110, 170)
        phantom = Liver(transducer, clip.scene, 2 * severity, patient, rng)
    elif clip.source == "liver_fibrosis":
        transducer = Transducer.convex(patient, 110, 170)
        phantom = Liver(transducer, rng.choice(SCENES), int(clip.scene[1]), patient, rng)
    else:
        transducer = Transducer.linear(patient, 35, 60) if clip.transducer == "linear" else Transducer.convex(patient, 85, 130)
        phantom = Lung(transducer, draw_signs(LUNG_SIGNS[clip.scene], severity, rng), patient, rng)
    return phantom, Scanner(transducer, patient, rng)


def write(path: Path, frames: list[np.ndarray], fps: float, images: str) -> None:
    """Write frames [H, W, 3] as a video, jpg or png; without a suffix, as a folder of `images` (jpg, or grey png).

    Raises:
        OSError: there is no space for the frames as they are; OpenCV would cut the file short without a word.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(path.parent).free < sum(frame.nbytes for frame in frames):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    suffix = path.suffix[1:].lower()
    if suffix in ("jpg", "png"):
        cv2.imwrite(str(path), frames[0])
    elif suffix == "gif":
        animation = cv2.Animation()
        animation.frames, animation.durations = frames, [round(1000 / fps)] * len(frames)
        cv2.imwriteanimation(str(path), animation)
    elif suffix:
        height, width = frames[0].shape[:2]
        video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*CODECS[suffix]), fps, (width, height))
        for frame in frames:
            video.write(frame)
        video.release()
    else:
        path.mkdir()
        for number, frame in enumerate(frames, 1):
            cv2.imwrite(str(path / f"{number:05}.{images}"), frame[..., 1] if images == "png" else frame)


def write_masks(path: Path, breast: Breast, scanner: Scanner) -> None:
    """Write the masks of the lesions beside the image, named as in BUSI; a black mask if there is no lesion."""
    regions = [resample(lesion.astype(np.float32), *breast.places(0)) > 0.5 for lesion in breast.lesions]
    for number, region in enumerate(regions or [np.zeros_like(breast.beams[0], bool)]):
        name = f"{path.stem}_mask_{number}.png" if number else f"{path.stem}_mask.png"
        cv2.imwrite(str(path.with_name(name)), 255 * scanner.shown(region).astype(np.uint8))
