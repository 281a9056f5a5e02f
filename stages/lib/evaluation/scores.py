"""Scores of held-out predictions: scikit-learn's definitions, at frame and at clip (video) level, and their intervals.

A prediction table has a row per held-out frame: clip, patient, group, fold, frame, label and a column p_<class> for every
class. An undefined score is NaN: the AUROC of a class without clips, the precision of a class that is never predicted.
With columns `division` and `seed` the table holds every frame once per run, a division with a seed: each run is scored on its
own, and the scores are averaged.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score

from stages.lib.clips.tasks import groups
from stages.lib.evaluation import intervals


def clip_level(predictions: pd.DataFrame) -> pd.DataFrame:
    """Mean class probabilities over the frames of every clip: a row per run and clip, sorted by both."""
    probabilities = [column for column in predictions if column.startswith("p_")]
    keys = [column for column in ("division", "seed", "clip", "patient", "group", "fold", "label") if column in predictions]
    return predictions.groupby(keys, as_index=False)[probabilities].mean()


def patients(table: pd.DataFrame) -> int:
    """The number of patients; a clip without a known patient counts as one patient."""
    return groups(table.drop(columns="group", errors="ignore")).nunique()


def by_run(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each run; one table of all rows if there are no columns `division` and `seed`."""
    keys = [column for column in ("division", "seed") if column in table]
    return [part.reset_index(drop=True) for _, part in table.groupby(keys)] if keys else [table.reset_index(drop=True)]


def first_division(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the first division: folds of different divisions hold different clips."""
    return table[table["division"] == table["division"].iloc[0]] if "division" in table else table


def over_runs(score: Callable[..., pd.DataFrame], table: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """The table that `score` (`per_class`, `by_fold`) gives, averaged over the runs row by row; NaN values do not count."""
    rows = pd.concat([score(part, classes) for part in by_run(table)])
    return rows.groupby(rows.columns[0], sort=False, as_index=False).mean().astype(rows.dtypes)


def predicted(table: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """The most probable class of every row; of equal ones the first in `classes`."""
    return np.asarray(classes)[table[[f"p_{name}" for name in classes]].to_numpy().argmax(axis=1)]


def confusion(table: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """Counts [actual, predicted] in the order of `classes`."""
    return confusion_matrix(table["label"], predicted(table, classes), labels=classes)


def per_class(table: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """A row per class: class, precision, recall, specificity, f1, auroc (one against the rest), count (its rows)."""
    actual, matrix = table["label"], confusion(table, classes)
    precision, recall, f1, count = precision_recall_fscore_support(
        actual, predicted(table, classes), labels=classes, zero_division=np.nan
    )
    others = len(table) - count
    false_positives = matrix.sum(axis=0) - matrix.diagonal()
    specificity = 1 - np.divide(false_positives, others, out=np.full(len(classes), np.nan), where=others > 0)
    auroc = [
        roc_auc_score(actual == name, table[f"p_{name}"]) if 0 < rows < len(table) else np.nan
        for name, rows in zip(classes, count, strict=True)
    ]
    columns = {"precision": precision, "recall": recall, "specificity": specificity, "f1": f1, "auroc": auroc}
    return pd.DataFrame({"class": classes, **columns, "count": count})


def scores(table: pd.DataFrame, classes: list[str]) -> dict[str, float]:
    """Balanced accuracy, accuracy, macro F1 and macro one-vs-rest AUROC of a table of frames or of clips.

    As in scikit-learn, balanced accuracy is the mean recall of the classes that occur, and macro F1 leaves out a class
    that neither occurs nor is predicted. AUROC is NaN as soon as one class does not occur.
    """
    classwise = per_class(table, classes)
    return {
        "balanced_accuracy": float(classwise["recall"].mean()),
        "accuracy": float((predicted(table, classes) == table["label"]).mean()),
        "macro_f1": float(classwise["f1"].mean()),
        "auroc": float(classwise["auroc"].mean(skipna=False)),
    }


def balanced_accuracies(table: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """Balanced accuracy of each run of a clip-level table, as in `scores`, without the time for the other scores."""
    matrices = np.array([confusion(part, classes) for part in by_run(table)])                   # runs x C x C
    return np.array([np.mean(each.diagonal()[each.sum(1) > 0] / each.sum(1)[each.sum(1) > 0]) for each in matrices])


def outcome_counts(table: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """The counts that intervals.py takes, of a clip-level table: [runs, patients, classes, 2]; patients in alphabetical order.

    The groups of folds count as patients (clips.tasks.groups): a clip without a known patient is a patient of its own.
    """
    return np.stack([_counts(part, classes) for part in by_run(table)])


def _counts(table: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """`outcome_counts` of one run."""
    label = table["label"].to_numpy()
    actual = label[:, None] == np.asarray(classes)                                              # N x C
    right = actual & (predicted(table, classes) == label)[:, None]                              # N x C
    by_patient = pd.DataFrame(np.hstack([actual, right])).groupby(groups(table).to_numpy()).sum().to_numpy()    # P x 2C
    return np.stack(np.hsplit(by_patient, 2), axis=-1)


def by_fold(clips: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """A row per fold of a clip-level table: fold, clips, patients, balanced_accuracy, accuracy, macro_f1, auroc."""
    folds = []
    for fold, part in clips.groupby("fold"):
        folds.append({"fold": fold, "clips": len(part), "patients": patients(part), **scores(part, classes)})
    return pd.DataFrame(folds)


def published_protocol(epochs: pd.DataFrame) -> float:
    """Accuracy as the papers report it: frames pooled, and the best epoch of every fold picked on the held-out fold.

    It is optimistic by construction. Use it only to compare with published tables.

    Args:
        epochs: fold, epoch, held_out_correct, held_out_frames.
    """
    best = epochs.loc[epochs.groupby("fold")["held_out_correct"].idxmax()]
    return float(best["held_out_correct"].sum() / best["held_out_frames"].sum())


def summary(frames: pd.DataFrame, epochs: pd.DataFrame, classes: list[str], confidence: float) -> dict[str, float]:
    """All numbers of one task, under their names in reports/scores.json.

    With several runs each number is the mean, and <number>_seed_sd the standard deviation over them.

    Args:
        frames: the prediction table, a row per run and held-out frame.
        epochs: as `published_protocol` takes it, of every run.
        confidence: of the interval of the clips' balanced accuracy.
    """
    parts = zip(by_run(frames), by_run(epochs), strict=True)
    each = pd.DataFrame([_one_run(*part, classes) for part in parts])
    return _summary(each, clip_level(frames), classes, confidence)


def clip_summary(clips: pd.DataFrame, classes: list[str], confidence: float) -> dict[str, float]:
    """The numbers of `summary` that need only the clip-level predictions, without those over folds."""
    each = pd.DataFrame([scores(part, classes) for part in by_run(clips)])
    return _summary(each, clips, classes, confidence)


def _summary(each: pd.DataFrame, clips: pd.DataFrame, classes: list[str], confidence: float) -> dict[str, float]:
    """Means, spreads and the interval of the balanced accuracy, from the scores of each run."""
    means = each.mean().to_dict()
    spread = each.drop(columns="fold_sd", errors="ignore").std().add_suffix("_seed_sd").to_dict() if len(each) > 1 else {}
    low, high = intervals.interval(outcome_counts(clips, classes), confidence)
    interval = {"balanced_accuracy_low": low, "balanced_accuracy_high": high}
    counts = {"clips": clips["clip"].nunique(), "patients": patients(clips), "groups": groups(clips).nunique()}
    return {"balanced_accuracy": means.pop("balanced_accuracy")} | interval | means | spread | counts


def _one_run(frames: pd.DataFrame, epochs: pd.DataFrame, classes: list[str]) -> dict[str, float]:
    """The scores of one run."""
    clips = clip_level(frames)
    video, frame = scores(clips, classes), scores(frames, classes)
    return {
        "balanced_accuracy": video.pop("balanced_accuracy"),
        "fold_sd": float(by_fold(clips, classes)["balanced_accuracy"].std()),  # NaN for a single fold
        **video,
        "frame_accuracy": frame["accuracy"],
        "frame_balanced_accuracy": frame["balanced_accuracy"],
        "published_protocol_accuracy": published_protocol(epochs),
    }


def probes(table: pd.DataFrame, classes: list[str]) -> dict[str, float]:
    """Balanced accuracy of each probe of the frozen features, mean over the divisions: <probe>_probe_balanced_accuracy.

    Args:
        table: a row per probe, division and held-out clip: probe, division, label, p_<class> ….
    """
    parts = table.groupby("probe", sort=False)
    return {f"{name}_probe_balanced_accuracy": float(balanced_accuracies(part, classes).mean()) for name, part in parts}
