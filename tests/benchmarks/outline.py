"""How well the outline of the fan alone predicts the class of POCUS videos, as fans and as beam × depth.

    python -m tests.benchmarks.outline <folder with pocus/> [divisions] [--extracted <folder of fans> <folder of beams>]

Extracts the videos twice, into a temporary folder, or reads the two frame stores that are named. In five folds by patient, a
random forest like that of floor_outline sees one of these masks on a grid of 16 × 16:

    fan, lit           the pixels that are ever lit, as floor_outline does
    fan, hull          their convex hull: the outline, without what is dark inside
    beams, hull        the same hull, sampled where the beams lie: what is left of the outline
    beams, lit         the pixels that are ever lit: the outline that is left, and dark tissue (shadows, fluid, lost contact)
    beams, lit inside  the same without what lies outside the hull: dark tissue alone

Clips are those of both stores, so that the numbers compare. Prints the balanced accuracy of convex videos, mean and standard
deviation over divisions into folds. Chance is 1/3.
"""

import argparse
import os
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from stages import extract_frames
from stages.lib.clips import fan, store
from stages.lib.clips.tasks import groups
from stages.lib.evaluation.floors import SIDE, _model

CLASSES = ["covid", "pneumonia", "regular"]
FINE = 512      # side of the masks from which the hull is sampled


def lit(data: store.Store) -> dict[str, np.ndarray]:
    """The ever-lit pixels of each clip: bool [size_px, size_px]."""
    rows = data.frame_table.groupby("clip")["row"]
    return {clip: data.frames[own.to_numpy()].max(axis=0) > fan.DARK for clip, own in rows}


def hull(mask: np.ndarray) -> np.ndarray:
    """The convex hull of the lit pixels but specks: uint8 [FINE, FINE], 255 inside."""
    large = cv2.resize(mask.astype(np.uint8), (FINE, FINE), interpolation=cv2.INTER_NEAREST)
    points = cv2.findNonZero(cv2.morphologyEx(large, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8)))
    return cv2.fillConvexPoly(np.zeros((FINE, FINE), np.uint8), cv2.convexHull(points), 255)


def along_beams(mask: np.ndarray, clip: pd.Series, size_px: int) -> np.ndarray:
    """A mask [FINE, FINE] of a fan at the points that `fan.beams` samples: bool [size_px, size_px].

    Args:
        clip: its line in the clip table of the fans, which has the geometry.
    """
    ring, half_width = tuple(clip[store.FAN]), clip["crop_width"] / max(clip["crop_width"], clip["crop_height"]) / 2
    x, y = (np.float32(FINE * place - 0.5) for place in fan.beam_points(ring, half_width, size_px))
    return cv2.remap(mask, x, y, cv2.INTER_LINEAR) > 127


def masks(fans: store.Store, beams: store.Store) -> tuple[pd.DataFrame, dict[str, list[np.ndarray]]]:
    """The clips that both stores hold, and their masks by name."""
    table, seen, outlines = fans.clip_table, lit(fans), {clip: hull(mask) for clip, mask in lit(fans).items()}
    resampled, size_px = lit(beams), beams.frames.shape[-1]
    used = table[(table["subset"] == "convex") & table["label"].isin(CLASSES)]
    both = used[used["clip"].isin(seen) & used["clip"].isin(resampled)]
    print(f"{len(both)} of {len(used)} videos have a geometry; {groups(both).nunique()} patients")
    inside = [along_beams(outlines[line["clip"]], line, size_px) for _, line in both.iterrows()]
    own = [resampled[clip] for clip in both["clip"]]
    share = 100 * (1 - np.mean(inside))
    print(f"{share:.2f} % of what the beams show lies outside the hull")
    return both, {"fan, lit": [seen[clip] for clip in both["clip"]], "fan, hull": [outlines[clip] > 0 for clip in both["clip"]],
                  "beams, hull": inside, "beams, lit": own,
                  "beams, lit inside": [mask | ~within for mask, within in zip(own, inside, strict=True)]}


def score(clips: pd.DataFrame, seen: list[np.ndarray], divisions: int) -> np.ndarray:
    """Balanced accuracy of each division of a forest that sees the masks on a grid."""
    grids = [cv2.resize(mask.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel() for mask in seen]
    found = []
    for seed in range(divisions):
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        predicted = cross_val_predict(_model("floor_outline", 0), grids, clips["label"], groups=groups(clips), cv=folds)
        found.append(balanced_accuracy_score(clips["label"], predicted))
    return np.array(found)


def main(real: Path, divisions: int, extracted: list[Path] | None) -> None:
    """Print the table."""
    stores = [store.read(folder) for folder in extracted or []] or extract(real.resolve())
    clips, seen = masks(*stores)
    for name, own in seen.items():
        values = score(clips, own, divisions)
        print(f"{name}: {values.mean():.3f} ± {values.std(ddof=1):.3f}", flush=True)


def extract(real: Path) -> list[store.Store]:
    """The frame stores of fans and of beams, in a temporary folder that stays until the system clears it."""
    os.chdir(tempfile.mkdtemp())
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/pocus").symlink_to(real / "pocus")
    found = []
    for geometry in ("fan", "beams"):
        extract_frames.main("pocus", "raw", 3.0, 30, 25.0, 64, geometry)
        found.append(store.read(Path("data/frames/pocus").rename(geometry)))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.outline", description=__doc__.splitlines()[0])
    parser.add_argument("real", type=Path, help="folder with pocus/")
    parser.add_argument("divisions", type=int, nargs="?", default=5)
    parser.add_argument("--extracted", type=Path, nargs=2, metavar="folder", help="frame stores of fans and of beams")
    main(**vars(parser.parse_args()))
