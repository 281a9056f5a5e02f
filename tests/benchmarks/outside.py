"""The outside tests of tasks without their cross-validation: `python -m tests.benchmarks.outside <task> … [--epochs 3]`

Run it in a folder whose data/frames holds the sources of the tasks and of their outside tests (`dvc repro extract_frames` makes
them) and whose params.yaml describes the tasks. Trains one network on all patients of each task with the settings of
params.yaml, but from random weights, and scores it once on each block of tasks.<task>.external. Prints the balanced accuracy of
clips with its interval, the AUROC and the confusion matrix.
"""

import argparse
from pathlib import Path

import pandas as pd
import yaml

from stages.lib.clips.tasks import Task, read_task
from stages.lib.evaluation import external, scores
from stages.lib.evaluation.cross_validation import on_all
from stages.lib.evaluation.fine_tuning import Recipe
from stages.lib.evaluation.preparation import load_frames, prepare
from stages.lib.networks.normalisation import RANDOM
from stages.lib.training.views import Views


def main(tasks: list[str], epochs: int, trainable: str, arch: str) -> None:
    """Print a few lines per outside test."""
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    block, seed = params["finetune"], params["seed"]
    views = Views(**block["views"] | RANDOM._asdict())
    for name in tasks:
        task = read_task(name, params["tasks"])
        clips = prepare("finetune", task, params["copy_distance"], block["folds"], block["fold_seeds"])
        tests, frames = external.outside_frames(clips, params["copy_distance"]), load_frames(task, clips.used)
        settings = {key: value for key, value in block.items() if key in Recipe._fields}
        recipe = Recipe(**settings | {"arch": arch, "init": "random", "trainable": trainable, "classes": task.classes,
                                      "epochs": epochs, "views": views})
        networks = {seed: on_all(recipe, frames, seed * block["folds"], name)}
        report(task, tests, external.predictions(networks, tests, task, recipe), params["report"]["confidence"])


def report(task: Task, tests: dict, predicted: pd.DataFrame, confidence: float) -> None:
    """Print the scores of each test."""
    for (test, (table, _)), outside in zip(tests.items(), task.external, strict=True):
        classes = list(outside.values)
        clips = scores.clip_level(predicted[predicted["test"] == test])
        found = scores.clip_summary(clips, classes, confidence)
        copies = (table["left_out"] == "looks like a clip of the task").sum()
        print(f"{test}: balanced accuracy {found['balanced_accuracy']:.3f} ({found['balanced_accuracy_low']:.3f} to "
              f"{found['balanced_accuracy_high']:.3f}), accuracy {found['accuracy']:.3f}, AUROC {found['auroc']:.3f}; "
              f"{found['clips']} clips of {found['patients']} patients, {copies} copies left out")
        matrix = scores.confusion(clips, classes).tolist()
        print(f"  confusion [actual, predicted] of {', '.join(classes)}: {matrix}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.outside", description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", metavar="task")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--trainable", default="last_block", choices=("last_block", "head", "all"))
    parser.add_argument("--arch", default="resnet18")
    main(**vars(parser.parse_args()))
