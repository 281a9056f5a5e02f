"""The clips of an evaluation task: those of the source of the same name whose label is one of its classes."""

from pathlib import Path

import pandas as pd

from stages.lib.clips import store
from stages.lib.params import UserError, require


def task_clips(task: str, tasks: dict) -> pd.DataFrame:
    """The clip table of the task's frame store, with a reason in `left_out` for each clip that the task does not use.

    Args:
        task: its name, which is also that of its source and of its block in params.yaml.
        tasks: the `tasks` block: task → {classes: labels in order, subsets: parts of the source, [] for all}.

    Raises:
        UserError: no such block, or not two classes.
    """
    if task not in tasks:
        raise UserError(f"params.yaml: finetune.tasks names {task!r}, but tasks has no such block; add tasks.{task}.classes")
    absent = {"classes", "subsets"} - set(tasks[task])
    require(not absent, f"params.yaml: tasks.{task} has no {', '.join(sorted(absent))}; both lists must be there")
    classes, subsets = tasks[task]["classes"], tasks[task]["subsets"]
    require(len(set(classes)) >= 2, f"params.yaml: tasks.{task}.classes is {classes}; it needs two classes or more")
    clips = store.table(Path("data/frames", task, "clips.csv"))
    reasons = [
        (~clips["label"].isin(classes), "label " + clips["label"].replace("", "missing") + " is no class of the task"),
        (~clips["subset"].isin(subsets or clips["subset"]), "subset " + clips["subset"] + " is no part of the task"),
    ]
    for applies, reason in reasons:
        clips["left_out"] = clips["left_out"].mask((clips["left_out"] == "") & applies, reason)
    return clips


def groups(clips: pd.DataFrame) -> pd.Series:
    """What folds keep whole: the column `group` (copies.py) if there is one, else the patient, else the clip."""
    if "group" in clips:
        return clips["group"]
    return clips["patient"].where(clips["patient"] != "", "clip " + clips["clip"])
