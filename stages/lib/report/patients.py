"""What the held-out predictions say of each clip and each patient; of several seeds the means."""

import numpy as np
import pandas as pd

from stages.lib.evaluation import scores

OUTCOMES = ("all", "some", "none")      # of a patient's clips are predicted rightly, by every seed


def by_clip(clips: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """A line per clip: clip, patient, fold, label, p_<class> …, predicted, predicted_probability, probability, right.

    Args:
        clips: seed, clip, patient, fold, label, p_<class> …: a line per seed and clip.

    Returns:
        Probabilities are means over the seeds; `predicted` is the class of the highest, `probability` that of the true class.
    """
    columns = [f"p_{name}" for name in classes]
    means = clips.groupby(["clip", "patient", "fold", "label"], as_index=False)[columns].mean()
    predicted = scores.predicted(means, classes)
    return means.assign(predicted=predicted, predicted_probability=means[columns].max(axis=1),
                        probability=true_probability(means, classes), right=predicted == means["label"])


def by_patient(clips: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """A line per patient, the lowest probability first; a clip of an unknown patient stands for one.

    Args:
        clips: as in `by_clip`.

    Returns:
        patient (or clip), label (several where the patient's clips differ), clips, right (clips, mean over seeds),
        probability (of the true class, mean over clips and seeds), fold, taken_for {class: wrong clips, mean over seeds},
        outcome (of OUTCOMES).
    """
    told = clips.assign(predicted=scores.predicted(clips, classes), probability=true_probability(clips, classes))
    told["right"] = told["predicted"] == told["label"]
    told["name"] = told["patient"].where(told["patient"] != "", told["clip"])
    seeds, lines = len(scores.by_run(clips)), []
    for (_, name), part in told.groupby(["patient", "name"]):
        wrong = part.loc[~part["right"], "predicted"].value_counts()
        lines.append({
            "patient": name,
            "label": ", ".join(label for label in classes if label in set(part["label"])),
            "clips": part["clip"].nunique(),
            "right": part["right"].sum() / seeds,
            "probability": part["probability"].mean(),
            "fold": part["fold"].iloc[0],
            "taken_for": {label: wrong[label] / seeds for label in classes if label in wrong},
            "outcome": OUTCOMES[0 if part["right"].all() else 1 if part["right"].any() else 2],
        })  # fmt: skip
    return pd.DataFrame(lines).sort_values(["probability", "patient"], ignore_index=True)


def true_probability(table: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """What each line says of its own label, [N]."""
    places = table["label"].map(classes.index).to_numpy()
    return table[[f"p_{name}" for name in classes]].to_numpy()[np.arange(len(table)), places]
