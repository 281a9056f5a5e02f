"""How well the outline of the fan alone predicts the class of POCUS videos, as fans and as beam × depth.

    python -m tests.benchmarks.outline <folder with pocus/> [seeds]

Extracts the videos twice, into a temporary folder. In five folds by patient, a random forest sees a 16 × 16 mask of the pixels
that are ever lit. Clips are those of both stores, so that the two numbers compare: balanced accuracy of convex videos, mean and
standard deviation over divisions into folds. Chance is 1/3.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from stages import extract_frames
from stages.lib.clips import store
from stages.lib.clips.fan import DARK

CLASSES = ["covid", "pneumonia", "regular"]
SIDE = 16


def outlines(folder: str) -> dict[str, np.ndarray]:
    """Share of ever-lit pixels in each cell of a SIDE × SIDE grid, by clip: float [SIDE²]."""
    data = store.read(folder)
    cell = data.frames.shape[1] // SIDE
    found = {}
    for clip, rows in data.frame_table.groupby("clip")["row"]:
        lit = data.frames[rows.to_numpy()].max(axis=0) > DARK
        found[clip] = lit.reshape(SIDE, cell, SIDE, cell).mean(axis=(1, 3)).ravel()
    return found


def main() -> None:
    """Print the table."""
    real, seeds = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        Path("data/raw").mkdir(parents=True)
        Path("data/raw/pocus").symlink_to(real / "pocus")
        seen = {}
        for geometry in ("fan", "beams"):
            extract_frames.main("pocus", "raw", 3.0, 30, 25.0, 64, geometry)
            seen[geometry] = outlines("data/frames/pocus")
        report(store.table("data/frames/pocus/clips.csv"), seen, seeds)


def report(clips, seen: dict[str, dict[str, np.ndarray]], seeds: int) -> None:
    """One line per geometry, of the clips that have both."""
    used = clips[(clips["subset"] == "convex") & clips["label"].isin(CLASSES)]
    both = used[used["clip"].isin(seen["fan"]) & used["clip"].isin(seen["beams"])]
    print(f"{len(both)} of {len(used)} videos have a geometry; {both['patient'].nunique()} patients")
    for geometry, found in seen.items():
        features, scores = np.stack([found[clip] for clip in both["clip"]]), []
        for seed in range(seeds):
            folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
            forest = RandomForestClassifier(300, class_weight="balanced", min_samples_leaf=2, random_state=seed)
            predicted = cross_val_predict(forest, features, both["label"], groups=both["patient"], cv=folds)
            scores.append(balanced_accuracy_score(both["label"], predicted))
        print(f"{geometry}: {np.mean(scores):.3f} ± {np.std(scores):.3f}; {features.mean():.2f} of the square is ever lit")


if __name__ == "__main__":
    main()
