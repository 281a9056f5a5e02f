"""ROC curves of clip-level predictions."""

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from stages.lib.evaluation.scores import by_run


def roc(table: pd.DataFrame, classes: list[str], points: int) -> pd.DataFrame:
    """ROC curves of the classes that have one: class, fpr, tpr; at most `points` corners per curve, both ends included.

    With several runs a curve is the mean of theirs, so that its area is the mean of their areas.
    """
    found = []
    for name in classes:
        if 0 < (table["label"] == name).sum() < len(table):
            curve = mean_curve([roc_curve(run["label"] == name, run[f"p_{name}"])[:2] for run in by_run(table)])
            kept = np.unique(np.linspace(0, len(curve) - 1, points).round().astype(int))
            found.append(pd.DataFrame({"class": name, "fpr": curve[kept, 0], "tpr": curve[kept, 1]}))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["class", "fpr", "tpr"])


def mean_curve(curves: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The mean of the tpr of curves (fpr, tpr) at each fpr where one has a corner: [corners, 2].

    Where a curve rises steeply, its fpr has two values, the lower and the upper end; both are averaged.
    """
    fpr = np.unique(np.concatenate([own for own, _ in curves]))
    upper = np.mean([np.interp(fpr, *curve) for curve in curves], axis=0)                       # of equal fpr the last one
    lower = np.mean([np.interp(-fpr, -own[::-1], tpr[::-1]) for own, tpr in curves], axis=0)
    return np.unique(np.stack([np.tile(fpr, 2), np.concatenate([lower, upper])], axis=1), axis=0)
