"""Scores of held-out predictions: scikit-learn's definitions, at frame and at clip (video) level, and their intervals.

A prediction table has a line per held-out frame: clip, patient, group, fold, frame, label and a column p_<class> for every
class. What a table cannot tell is NaN: the AUROC of a class without clips, the precision of a class never predicted.
With a column `seed` it holds every frame once per seed: each seed is scored on its own, and the scores are averaged.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score, roc_curve

from stages.lib.clips.tasks import groups


def clip_level(predictions: pd.DataFrame) -> pd.DataFrame:
    """Mean class probabilities over the frames of every clip: a line per seed and clip, sorted by both."""
    probabilities = [column for column in predictions if column.startswith("p_")]
    keys = [column for column in ("seed", "clip", "patient", "group", "fold", "label") if column in predictions]
    return predictions.groupby(keys, as_index=False)[probabilities].mean()


def patients(table: pd.DataFrame) -> int:
    """How many patients; a clip of an unknown one counts as a patient of its own."""
    return groups(table.drop(columns="group", errors="ignore")).nunique()


def by_seed(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The lines of each seed; all of them where there is no column `seed`."""
    parts = [part for _, part in table.groupby("seed")] if "seed" in table else [table]
    return [part.reset_index(drop=True) for part in parts]


def over_seeds(score: Callable[..., pd.DataFrame], table: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """What `score` (`per_class`, `by_fold`) says of each seed, averaged line by line where it is defined."""
    lines = pd.concat([score(part, classes) for part in by_seed(table)])
    return lines.groupby(lines.columns[0], sort=False, as_index=False).mean().astype(lines.dtypes)


def predicted(table: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """The most probable class of every line, the first of `classes` where two are equal."""
    return np.asarray(classes)[table[[f"p_{name}" for name in classes]].to_numpy().argmax(axis=1)]


def confusion(table: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """Counts [actual, predicted] in the order of `classes`."""
    return confusion_matrix(table["label"], predicted(table, classes), labels=classes)


def per_class(table: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """A line per class: class, precision, recall, specificity, f1, auroc (one against the rest), count (its lines)."""
    actual, matrix = table["label"], confusion(table, classes)
    precision, recall, f1, count = precision_recall_fscore_support(
        actual, predicted(table, classes), labels=classes, zero_division=np.nan
    )
    others = len(table) - count
    false_positives = matrix.sum(axis=0) - matrix.diagonal()
    specificity = 1 - np.divide(false_positives, others, out=np.full(len(classes), np.nan), where=others > 0)
    auroc = [
        roc_auc_score(actual == name, table[f"p_{name}"]) if 0 < lines < len(table) else np.nan
        for name, lines in zip(classes, count, strict=True)
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


def roc(table: pd.DataFrame, classes: list[str], points: int) -> pd.DataFrame:
    """ROC curves of the classes that have one: class, fpr, tpr; at most `points` corners per curve, ends included."""
    curves = []
    for name in classes:
        actual = table["label"] == name
        if 0 < actual.sum() < len(table):
            fpr, tpr, _ = roc_curve(actual, table[f"p_{name}"])
            kept = np.unique(np.linspace(0, len(fpr) - 1, points).round().astype(int))
            curves.append(pd.DataFrame({"class": name, "fpr": fpr[kept], "tpr": tpr[kept]}))
    return pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=["class", "fpr", "tpr"])


def bootstrap(table: pd.DataFrame, classes: list[str], samples: int, seed: int) -> np.ndarray:
    """Balanced accuracy in `samples` resamples of the patients, drawn with replacement. Returns [samples].

    Patients are drawn, never single clips, since the clips of one patient are alike; a clip without a known patient is
    a patient of its own. A patient comes with the predictions of all seeds, and the value is the mean over them. A class
    that a resample misses does not count in its mean recall. Two tables of the same
    patients and the same seed get the same resamples, so that the difference of their values is a paired bootstrap.
    """
    return np.mean([_bootstrap(part, classes, samples, seed) for part in by_seed(table)], axis=0)


def _bootstrap(table: pd.DataFrame, classes: list[str], samples: int, seed: int) -> np.ndarray:
    """`bootstrap` of one seed's predictions."""
    label = table["label"].to_numpy()
    actual = label[:, None] == np.asarray(classes)  # N x C
    correct = actual & (predicted(table, classes) == label)[:, None]  # N x C
    by_patient = pd.DataFrame(np.hstack([actual, correct])).groupby(groups(table).to_numpy()).sum()  # P x 2C
    count = len(by_patient)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=samples)  # S x P
    drawn, right = np.hsplit(draws @ by_patient.to_numpy(), 2)  # S x C each
    return np.nanmean(np.divide(right, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0), axis=1)


def bootstrap_interval(
    table: pd.DataFrame, classes: list[str], samples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Percentile interval (low, high) of the balanced accuracy over resampled patients; `confidence` e.g. 0.95."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(bootstrap(table, classes, samples, seed), [tail, 1 - tail])
    return float(low), float(high)


def paired_interval(
    first: pd.DataFrame, second: pd.DataFrame, classes: list[str], samples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Percentile interval of the difference in balanced accuracy, second − first, over the same resamples of the patients.

    Args:
        first, second: predictions of the same clips, a line per clip, or per seed and clip.
    """
    tail = (1 - confidence) / 2
    differences = bootstrap(second, classes, samples, seed) - bootstrap(first, classes, samples, seed)
    low, high = np.quantile(differences, [tail, 1 - tail])
    return float(low), float(high)


def mcnemar(first: pd.DataFrame, second: pd.DataFrame, classes: list[str]) -> tuple[int, int, float]:
    """Clips that only the first and only the second predicts rightly, and the exact p of McNemar's test (McNemar 1947).

    The test takes clips for independent, which those of one patient are not: p is somewhat too small.
    """
    right = [predicted(table, classes) == table["label"].to_numpy() for table in (first, second)]
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    differ = only_first + only_second
    return only_first, only_second, float(binomtest(only_first, differ).pvalue) if differ else 1.0


def by_fold(clips: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """A line per fold of a clip-level table: fold, clips, patients, balanced_accuracy, accuracy, macro_f1, auroc."""
    folds = []
    for fold, part in clips.groupby("fold"):
        folds.append({"fold": fold, "clips": len(part), "patients": patients(part), **scores(part, classes)})
    return pd.DataFrame(folds)


def published_protocol(epochs: pd.DataFrame) -> float:
    """Accuracy as the papers report it: the best epoch of every fold picked on the held-out fold, frames pooled.

    Optimistic by construction, and here only to be compared with published tables.

    Args:
        epochs: fold, epoch, held_out_correct, held_out_frames.
    """
    best = epochs.loc[epochs.groupby("fold")["held_out_correct"].idxmax()]
    return float(best["held_out_correct"].sum() / best["held_out_frames"].sum())


def summary(
    frames: pd.DataFrame, epochs: pd.DataFrame, classes: list[str], samples: int, confidence: float, seed: int
) -> dict[str, float]:
    """All numbers of one task, by the names that reports/scores.json gives them.

    Of several seeds each number is the mean, and <number>_seed_sd the standard deviation over them.

    Args:
        frames: the prediction table, a line per seed and held-out frame.
        epochs: as `published_protocol` takes it, of every seed.
        samples, confidence, seed: of the bootstrap interval of the balanced accuracy of the clips.
    """
    clips = clip_level(frames)
    parts = zip(by_seed(frames), by_seed(epochs), strict=True)
    each = pd.DataFrame([_one_seed(*part, classes) for part in parts])
    means = each.mean().to_dict()
    spread = each.drop(columns="fold_sd").std().add_suffix("_seed_sd").to_dict() if len(each) > 1 else {}
    low, high = bootstrap_interval(clips, classes, samples, confidence, seed)
    return {
        "balanced_accuracy": means.pop("balanced_accuracy"),
        "balanced_accuracy_low": low,
        "balanced_accuracy_high": high,
        **means,
        **spread,
        "clips": clips["clip"].nunique(),
        "patients": patients(clips),
        "groups": groups(clips).nunique(),
    }


def _one_seed(frames: pd.DataFrame, epochs: pd.DataFrame, classes: list[str]) -> dict[str, float]:
    """The scores of one seed's predictions."""
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
    """Balanced accuracy of each probe of the frozen features: <probe>_probe_balanced_accuracy.

    Args:
        table: probe, label, p_<class> of every held-out clip.
    """
    parts = table.groupby("probe", sort=False)
    return {f"{name}_probe_balanced_accuracy": scores(part, classes)["balanced_accuracy"] for name, part in parts}
