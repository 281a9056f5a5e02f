"""What the files that a run left behind say of each task: scores with intervals, tables, curves."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from stages.lib.clips import store
from stages.lib.clips.tasks import groups
from stages.lib.evaluation import scores
from stages.lib.evaluation.comparison import against
from stages.lib.params import UserError, require
from stages.lib.report import figures, patients
from stages.lib.segmentation import masks

ROC_POINTS = 100  # per curve: enough for the eye, few enough for git


def evaluate(task: str, classes: list[str], baselines: list[str], samples: int, confidence: float, seed: int) -> dict:
    """What the page and the metrics say about one task, all of it from the task's prediction file.

    Args:
        baselines: runs (experiment, branch, tag, commit) that this one is compared with.
        samples, confidence, seed: of the bootstrap over patients.

    Raises:
        UserError: a file is missing, or it does not hold the predictions of the clips that data/folds lists.
    """
    frames, folds = read(f"reports/predictions/{task}.csv"), read(f"data/folds/{task}.csv")
    _check(frames, folds, task, classes)
    clips, epochs = scores.clip_level(frames), read(f"reports/finetune/{task}.csv", pd.read_csv)
    per_class = scores.over_runs(scores.per_class, clips, classes).rename(columns={"count": "clips"})
    probes = scores.probes(read(f"reports/probes/{task}.csv"), classes)
    roc = scores.roc(clips, classes, ROC_POINTS)
    return {
        "task": task,
        "classes": classes,
        "frames": len(scores.by_run(frames)[0]),
        "metrics": defined(scores.summary(frames, epochs, classes, samples, confidence, seed) | probes),
        "baselines": [against(task, name, clips, samples, confidence, seed) for name in baselines],
        "by_fold": scores.over_runs(scores.by_fold, clips, classes).to_dict("records"),
        "per_class": per_class,
        "matrices": {"Clips": scores.confusion(clips, classes), "Frames": scores.confusion(frames, classes)},
        "confusion": pd.DataFrame({"actual": clips["label"], "predicted": scores.predicted(clips, classes)}),
        "clips": patients.by_clip(clips, classes),
        "patients": patients.by_patient(clips, classes),
        "roc": roc,
        "roc_figure": figures.roc(roc, per_class.set_index("class")["auroc"].to_dict(), task),
        "unknown_patients": clips.loc[clips["patient"] == "", "clip"].nunique(),
        "left_out": folds[folds["left_out"] != ""].to_dict("records"),
        "copies": folds[folds["copy_of"] != ""].to_dict("records"),
    }


def lesions(task: str, samples: int, confidence: float, seed: int) -> dict[str, float]:
    """The numbers of the segmentation of a task.

    Raises:
        UserError: a file is missing, or it does not hold the predictions of the images that data/folds lists.
    """
    path, again = f"reports/predictions/{task}_segmentation.csv", f"run `dvc repro -f segment@{task}`"
    images, folds = read(path), read(f"data/folds/{task}_segmentation.csv")
    unlike = sorted(set(folds.loc[folds["left_out"] == "", "clip"]) ^ set(images["clip"]))
    require(not unlike, f"{path} and data/folds/{task}_segmentation.csv differ in {', '.join(unlike[:1])}; {again}")
    by_fold = read(path.replace(".csv", "_folds.csv"), pd.read_csv)
    return defined(masks.summary(images, by_fold, samples, confidence, seed))


def read(path: str, reader: Callable = store.table):
    """What `reader` makes of the file; a missing or unreadable file becomes a sentence."""
    try:
        return reader(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `dvc repro` to make it") from None
    except ValueError as error:  # pandas: an empty or broken csv
        raise UserError(f"{path} cannot be read ({error}); remove it and run `dvc repro` to make it again") from None


def defined(numbers: dict[str, float]) -> dict[str, float]:
    """The numbers that are defined, four digits after the point: JSON knows no NaN."""
    return {key: round(value, 4) for key, value in numbers.items() if np.isfinite(value)}


def _check(frames: pd.DataFrame, folds: pd.DataFrame, task: str, classes: list[str]) -> None:
    """Stop where the predictions are not those of the clips in the folds, or a patient stands in two folds."""
    path, again = f"reports/predictions/{task}.csv", f"run `dvc repro -f finetune@{task}`"
    chances = [f"p_{name}" for name in classes]
    missing = sorted({"seed", "clip", "patient", "fold", "label", *chances} - set(frames))
    require(not missing, f"{path} has no column {', '.join(missing)}; {again}")
    require(len(frames) > 0, f"{path} has no line: no clip of {task} was held out; see data/folds/{task}.csv")
    strange = sorted(set(frames["label"]) - set(classes))
    require(not strange, f"{path} has the label {', '.join(strange)}, which tasks.{task}.classes does not name")
    finite = frames[chances].apply(pd.to_numeric, errors="coerce").notna().all(axis=None)
    require(finite, f"{path} has an empty probability: training diverged; lower finetune.optimizer.learning_rate")
    unlike = sorted(set(folds.loc[folds["left_out"] == "", "clip"]) ^ set(frames["clip"]))
    require(not unlike, f"{path} and data/folds/{task}.csv differ in {', '.join(unlike[:1])}; {again}")
    in_folds = frames.groupby(groups(frames))["fold"].nunique()
    require(in_folds.max() == 1, f"{path}: patient {in_folds.idxmax()} stands in two folds; {again}")
