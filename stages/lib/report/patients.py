"""The held-out predictions of each clip and of each patient, averaged over the runs; folds are those of the first division."""

import numpy as np
import pandas as pd

from stages.lib.evaluation import scores

OUTCOMES = ("all", "some", "none")      # of a patient's clips are predicted correctly, counted over all runs


def by_clip(clips: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """A line per clip: clip, patient, fold, label, p_<class> …, predicted, predicted_probability, probability, right.

    Args:
        clips: seed, clip, patient, fold, label, p_<class> …: a line per run and clip.

    Returns:
        Probabilities are means over the runs. `predicted` is the class with the highest one (`predicted_probability`), and
        `probability` belongs to the true class.
    """
    columns = [f"p_{name}" for name in classes]
    means = clips.groupby(["clip", "patient", "label"], as_index=False)[columns].mean()
    means.insert(2, "fold", means["clip"].map(clips.groupby("clip")["fold"].first()))
    predicted = scores.predicted(means, classes)
    return means.assign(predicted=predicted, predicted_probability=means[columns].max(axis=1),
                        probability=true_probability(means, classes), right=predicted == means["label"])


def by_patient(clips: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """A line per patient, the lowest probability first. A clip of an unknown patient counts as a patient of its own.

    Args:
        clips: as in `by_clip`.

    Returns:
        patient (or clip), label (all labels of the patient's clips), clips, right (number of correct clips, mean over runs),
        probability (of the true class, mean over clips and runs), fold, taken_for {predicted class: number of wrong clips,
        mean over runs}, outcome (one of OUTCOMES).
    """
    table = clips.assign(predicted=scores.predicted(clips, classes), probability=true_probability(clips, classes))
    table["right"] = table["predicted"] == table["label"]
    table["name"] = table["patient"].where(table["patient"] != "", table["clip"])
    runs, lines = len(scores.by_run(clips)), []
    for (_, name), part in table.groupby(["patient", "name"]):
        wrong = part.loc[~part["right"], "predicted"].value_counts()
        lines.append({
            "patient": name,
            "label": ", ".join(label for label in classes if label in set(part["label"])),
            "clips": part["clip"].nunique(),
            "right": part["right"].sum() / runs,
            "probability": part["probability"].mean(),
            "fold": part["fold"].iloc[0],
            "taken_for": {label: wrong[label] / runs for label in classes if label in wrong},
            "outcome": OUTCOMES[0 if part["right"].all() else 1 if part["right"].any() else 2],
        })  # fmt: skip
    return pd.DataFrame(lines).sort_values(["probability", "patient"], ignore_index=True)


def true_probability(table: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """The probability of the true class in each line, [N]."""
    places = table["label"].map(classes.index).to_numpy()
    return table[[f"p_{name}" for name in classes]].to_numpy()[np.arange(len(table)), places]
