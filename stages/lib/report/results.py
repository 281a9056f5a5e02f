"""The results of each task from the files of a run: scores with intervals, tables, curves."""

import numpy as np
import pandas as pd

from stages.lib.clips.tasks import Task, groups
from stages.lib.evaluation import external, floors, scores
from stages.lib.evaluation.comparison import against
from stages.lib.evaluation.folds import GIVEN
from stages.lib.evaluation.roc import roc
from stages.lib.params import require
from stages.lib.report import figures, patients, scanner
from stages.lib.report.files import read
from stages.lib.segmentation import masks

ROC_POINTS = 100  # per curve: enough for the eye, few enough for git


def evaluate(task: Task, baselines: list[str], samples: int, confidence: float, seed: int) -> dict:
    """The values that the page and the metrics need about one task.

    Args:
        task: its block in params.yaml.
        baselines: runs (experiment, branch, tag or commit) to compare this run with.
        samples, confidence, seed: of the bootstrap over patients.

    Raises:
        UserError: a file is missing, or its clips are not those of data/folds/<task>.csv.
    """
    name, classes, bootstrap = task.name, task.classes, (samples, confidence, seed)
    again = f"dvc repro -f finetune@{name}"
    frames, folds = read(f"reports/predictions/{name}.csv"), read(f"data/folds/{name}.csv")
    _check(frames, folds, name, classes)
    clips, epochs = scores.clip_level(frames), read(f"reports/finetune/{name}.csv", pd.read_csv)
    per_class = scores.over_runs(scores.per_class, clips, classes).rename(columns={"count": "clips"})
    probes = scores.probes(read(f"reports/probes/{name}.csv"), classes)
    curves = roc(clips, classes, ROC_POINTS)
    return {
        "task": name,
        "source": task.source,
        "classes": classes,
        "frames": len(scores.by_run(frames)[0]),
        "given": GIVEN in set(frames["division"].astype(str)),       # whether the clip table gives the division into folds
        "runs": {"divisions into folds": frames["division"].nunique(), "seeds": frames["seed"].nunique()},
        "metrics": defined(scores.summary(frames, epochs, classes, confidence) | probes),
        "floors": above_floors(read(f"reports/floors/{name}.csv", command=again), clips, classes, *bootstrap),
        "external": outside_tests(task, confidence),
        "baselines": [against(name, baseline, clips, *bootstrap) for baseline in baselines],
        "by_fold": scores.over_runs(scores.by_fold, scores.first_division(clips), classes).to_dict("records"),
        "per_class": per_class,
        "matrices": {"Clips": scores.confusion(clips, classes), "Frames": scores.confusion(frames, classes)},
        "confusion": pd.DataFrame({"actual": clips["label"], "predicted": scores.predicted(clips, classes)}),
        "clips": patients.by_clip(clips, classes),
        "patients": patients.by_patient(clips, classes),
        "roc": curves,
        "roc_figure": figures.roc(curves, per_class.set_index("class")["auroc"].to_dict(), name),
        "unknown_patients": clips.loc[clips["patient"] == "", "clip"].nunique(),
        "left_out": folds[folds["left_out"] != ""].to_dict("records"),
        "copies": folds[folds["copy_of"] != ""].to_dict("records"),
    }


def above_floors(
    table: pd.DataFrame, clips: pd.DataFrame, classes: list[str], samples: int, confidence: float, seed: int
) -> dict:
    """The floors beside the score: floors.summary, and metrics (for reports/scores.json) and rows (scanner.py)."""
    found = floors.summary(table, clips, classes, samples, confidence, seed)
    values = found["values"] | {"highest_floor": found["values"][found["highest"]], "above_floor": found["difference"],
                                "above_floor_low": found["low"], "above_floor_high": found["high"],
                                "above_floor_detectable": found["detectable"]}
    metrics = defined(values)
    return found | {"metrics": metrics, "rows": scanner.rows({name: metrics[name] for name in found["values"]})}


def outside_tests(task: Task, confidence: float) -> list[dict]:
    """The outside tests of a task.

    Returns:
        For each test: name, source, target, classes (those that the test has), metrics (as in reports/scores.json), confusion
        (counts [actual, predicted] over clips), left_out (clips that were not tested, with the reason and the copy).
    """
    folder, found = f"reports/external/{task.name}", []
    again = f"dvc repro -f finetune@{task.name}"
    predictions, table = (read(f"{folder}/{name}.csv", command=again) for name in ("predictions", "clips"))
    for outside in task.external:
        name, classes = external.test_name(task, outside), list(outside.values)
        clips = scores.clip_level(predictions[predictions["test"] == name])
        metrics = scores.clip_summary(clips, classes, confidence)
        left_out = table[(table["test"] == name) & (table["left_out"] != "")].to_dict("records")
        found.append({"name": name, "source": outside.source, "target": outside.target, "classes": classes,
                      "metrics": defined(metrics), "confusion": scores.confusion(clips, classes), "left_out": left_out})
    return found


def lesions(task: str, samples: int, confidence: float, seed: int) -> dict[str, float]:
    """The scores of the segmentation of a task.

    Raises:
        UserError: a file is missing, or its images are not those of data/folds/<task>_segmentation.csv.
    """
    path, again = f"reports/predictions/{task}_segmentation.csv", f"run `dvc repro -f segment@{task}`"
    images, folds = read(path), read(f"data/folds/{task}_segmentation.csv")
    missing = sorted(_held_out(folds) ^ set(images["clip"]))
    require(not missing, f"{path} and data/folds/{task}_segmentation.csv differ in {', '.join(missing[:1])}; {again}")
    by_fold = read(path.replace(".csv", "_folds.csv"), pd.read_csv)
    return defined(masks.summary(images, by_fold, samples, confidence, seed))


def defined(numbers: dict[str, float]) -> dict[str, float]:
    """The numbers that are not NaN, which JSON does not have, rounded to four digits after the point."""
    return {key: round(value, 4) for key, value in numbers.items() if np.isfinite(value)}


def _held_out(folds: pd.DataFrame) -> set[str]:
    """The clips that must have been predicted: those in a fold. Clips of fold −1 only train (column `split`)."""
    return set(folds.loc[(folds["left_out"] == "") & (folds["fold"] != -1), "clip"])


def _check(frames: pd.DataFrame, folds: pd.DataFrame, task: str, classes: list[str]) -> None:
    """Raise UserError unless the predictions belong to the clips of data/folds, with each patient in one fold."""
    path, again = f"reports/predictions/{task}.csv", f"run `dvc repro -f finetune@{task}`"
    probabilities = [f"p_{name}" for name in classes]
    missing = sorted({"division", "seed", "clip", "patient", "fold", "label", *probabilities} - set(frames))
    require(not missing, f"{path} has no column {', '.join(missing)}; {again}")
    require(len(frames) > 0, f"{path} is empty: no clip of {task} was held out; see data/folds/{task}.csv")
    unknown = sorted(set(frames["label"]) - set(classes))
    require(not unknown, f"{path} has the label {', '.join(unknown)}, which tasks.{task}.classes does not name")
    finite = frames[probabilities].apply(pd.to_numeric, errors="coerce").notna().all(axis=None)
    require(finite, f"{path} has an empty probability; {again}")
    differing = sorted(_held_out(folds) ^ set(frames["clip"]))
    require(not differing, f"{path} and data/folds/{task}.csv differ in {', '.join(differing[:1])}; {again}")
    division = frames["division"].astype(str)
    in_folds = frames[division != GIVEN].groupby([division, groups(frames)])["fold"].nunique()
    require(in_folds.le(1).all(), f"{path}: patient {in_folds.idxmax()[1] if len(in_folds) else ''} is in two folds; {again}")
