"""Coverage of the interval of the balanced accuracy, by simulation: `python -m tests.benchmarks.interval_coverage`

Simulated are evaluations of 2 to 80 patients in two or three classes of equal or unequal size, with one clip each or one to
eight, whose errors are independent, related or the same within a patient. In the mixed cases each patient has clips of every
class. The true value is the accuracy that the errors are drawn with. Prints the coverage of the interval of 95 % in each case,
and the lowest one.
"""

import argparse
import itertools

import numpy as np
import pandas as pd

from stages.lib.evaluation.intervals import interval

PATIENTS = (2, 3, 5, 10, 20, 40, 80)
ACCURACIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
MIXED = "three classes, mixed"
MAKEUP = {"two equal classes": (1, 1), "three equal classes": (1, 1, 1), "classes 4 : 1": (4, 1), MIXED: (1, 1, 1)}
CLIPS = {"one clip": 1, "1 to 8 clips": 8}
CORRELATIONS = (0.0, 0.3, 1.0)      # of the errors on the clips of one patient


def simulate(patients: int, accuracy: float, classes: str, most: int, correlation: float, draw: np.random.Generator):
    """Counts [1, patients, classes, 2] of one evaluation."""
    makeup = MAKEUP[classes]
    shares = np.array(makeup) / sum(makeup)
    label = np.arange(len(makeup)).repeat(np.maximum(1, np.round(shares * patients)).astype(int))[:patients]
    label = np.pad(label, (0, patients - len(label)))
    inside = (label[:, None] == np.arange(len(makeup))) | (classes == MIXED)
    clips = inside * draw.integers(1, most + 1, inside.shape if classes == MIXED else (patients, 1))
    if correlation == 0:
        right = draw.binomial(clips, accuracy)
    elif correlation == 1 or accuracy == 1:
        right = clips * (draw.random((patients, 1)) < accuracy)
    else:
        size = 1 / correlation - 1
        right = draw.binomial(clips, draw.beta(accuracy * size, (1 - accuracy) * size, (patients, 1)))
    return np.stack([clips, right], -1)[None]


def coverage(draws: int, seed: int, patients=PATIENTS, accuracies=ACCURACIES) -> pd.DataFrame:
    """A row per case: its settings, coverage and mean width of the interval."""
    rows, draw = [], np.random.default_rng(seed)
    for count, accuracy, makeup, most, correlation in itertools.product(patients, accuracies, MAKEUP, CLIPS, CORRELATIONS):
        if makeup != MIXED and (CLIPS[most] == 1 and correlation > 0 or count < len(MAKEUP[makeup])):
            continue
        ends = np.array([interval(simulate(count, accuracy, makeup, CLIPS[most], correlation, draw), 0.95)
                         for _ in range(draws)])
        inside = (ends[:, 0] <= accuracy + 1e-9) & (accuracy - 1e-9 <= ends[:, 1])
        rows.append({"patients": count, "accuracy": accuracy, "classes": makeup, "clips": most, "correlation": correlation,
                     "coverage": inside.mean(), "width": np.ptp(ends, axis=1).mean()})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.interval_coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000, help="simulated evaluations of each case (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = coverage(given.draws, given.seed)
    print(found.pivot_table("coverage", "accuracy", "patients", aggfunc="min").round(3).to_string())
    print(found.sort_values("coverage").head(12).to_string(index=False))
    print(f"lowest coverage of {len(found)} cases: {found['coverage'].min():.3f}, SE about "
          f"{np.sqrt(0.05 * 0.95 / given.draws):.3f}")
