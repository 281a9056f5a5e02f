"""The section "How much of this is the scanner?": scores of floors beside the score of the networks, and outside tests."""

import pandas as pd

from stages.lib.clips.tasks import Task
from stages.lib.evaluation import external, floors, intervals, scores
from stages.lib.report.files import read

NAMES = {  # floor → its name on the page, and what the classifier sees
    "floor_acquisition": ("acquisition", "image size, frame rate, crop box, geometry of the fan, number of frames"),
    "floor_outline": ("outline of the fan", "which parts of the picture are ever lit, on a grid of 16 × 16"),
    "floor_histogram": ("grey histogram", "how often each grey level occurs"),
    "random_features": ("untrained network", "features of random weights, batch norm set from training frames"),
    "random_features_uncalibrated": ("untrained network as it starts", "features of random weights, batch norm not set"),
}


def floors_of(task: Task, clips: pd.DataFrame, samples: int, confidence: float, seed: int) -> dict:
    """The floors of a task: what `floors.summary` returns, and `rows`, the highest first: name, sees, value.

    Args:
        clips: the clip-level predictions of the networks.
        samples, confidence, seed: of the bootstrap over patients.

    Raises:
        UserError: reports/floors/<task>.csv is missing or cannot be read.
    """
    table = read(f"reports/floors/{task.name}.csv", command=f"dvc repro -f finetune@{task.name}")
    found = floors.summary(table, clips, task.classes, samples, confidence, seed)
    ordered = sorted(found["values"], key=lambda name: -found["values"][name])
    rows = [{"name": NAMES[name][0], "sees": NAMES[name][1], "value": found["values"][name]} for name in ordered]
    return found | {"rows": rows}


def metrics(found: dict) -> dict[str, float]:
    """The numbers of `floors_of` by their names in reports/scores.json."""
    beside = {"highest_floor": max(found["values"].values()), "above_highest_floor": found["difference"]}
    return found["values"] | beside | {f"above_highest_floor_{end}": found[end] for end in ("low", "high")}


def numbers(test: dict) -> dict[str, float]:
    """The numbers of an outside test for reports/scores.json."""
    names = ("balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high", "auroc", "clips", "patients")
    return {name: test[name] for name in names}


def outside_tests(task: Task, samples: int, confidence: float, seed: int) -> list[dict]:
    """The scores of the networks of a task on clips of other sources.

    Args:
        samples, confidence, seed: of the bootstrap over patients.

    Returns:
        For each test: name, source, target, classes, clips, patients; left_out: number of clips; copies: how many of them look
        like a clip of the task; balanced_accuracy, with _low and _high, and auroc: means over seeds.

    Raises:
        UserError: a file of reports/external/<task> is missing or cannot be read.
    """
    found, command = [], f"dvc repro -f finetune@{task.name}"
    for outside in task.external:
        name = external.test_name(task, outside)
        frames, table = (read(f"reports/external/{task.name}/{part}.csv", command=command) for part in ("predictions", "clips"))
        clips, table = scores.clip_level(frames[frames["test"] == name]), table[table["test"] == name]
        low, high = intervals.interval(scores.outcome_counts(clips, outside.classes), samples, confidence, seed)
        found.append({
            "name": name, "source": outside.source, "target": outside.target, "classes": outside.classes,
            "clips": clips["clip"].nunique(), "patients": scores.patients(clips),
            "left_out": int((table["left_out"] != "").sum()), "copies": int((table["copy_of"] != "").sum()),
            "balanced_accuracy": float(scores.balanced_accuracies(clips, outside.classes).mean()),
            "balanced_accuracy_low": low, "balanced_accuracy_high": high,
            "auroc": float(pd.Series([scores.scores(part, outside.classes)["auroc"] for part in scores.by_run(clips)]).mean()),
        })  # fmt: skip
    return found
