"""What fine-tuning and segmentation prepare alike: a task's clips in folds, its frames, and the state of an unfinished run."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from stages.lib.clips import copies, store
from stages.lib.clips.tasks import Task
from stages.lib.evaluation.folds import divide
from stages.lib.networks import checkpoint
from stages.lib.networks.initial import named_file
from stages.lib.training.device import device
from stages.lib.training.resume import Resume, unfinished

STAGES = Path(__file__).parents[2]


class TaskClips(NamedTuple):
    """The clips of a task, and how they are divided into folds."""

    task: Task
    table: pd.DataFrame                     # the clip table of the source with copy_of, group, and a reason in left_out
    divisions: dict[str, pd.Series]         # name (the fold seed) → fold of each clip (folds.divide)

    @property
    def used(self) -> pd.DataFrame:
        """The clips that the task uses."""
        return self.table[self.table["left_out"] == ""]

    def in_folds(self, division: str) -> pd.DataFrame:
        """The used clips with the column `fold` of a division."""
        return self.used.assign(fold=self.divisions[division][self.used.index])


class TaskFrames(NamedTuple):
    """The frames of a task, loaded once, on the device; every seed and fold indexes into them."""

    grey: torch.Tensor      # N x 1 x H x W, uint8
    labels: torch.Tensor    # N, the place of the class in tasks.<task>.classes
    table: pd.DataFrame     # row (in the store), clip, frame, patient, group, label of each frame


def prepare(stage: str, task: Task, copy_distance: dict, folds: int, fold_seeds: list[int]) -> TaskClips:
    """The clips of a task in folds.

    Args:
        stage: finetune | segment; the sentences for the user name its keys.
        copy_distance: the block of params.yaml.
        folds, fold_seeds: of the divisions by patient.

    Raises:
        UserError: the task cannot be evaluated with these settings.
    """
    folder, limits, clips = f"data/frames/{task.source}", copies.limits(copy_distance), task.clips()
    if task.stratify:       # tasks that share their folds must share their groups: those of all clips in the folds
        everyone = clips.assign(label=clips["stratum"], left_out=np.where(clips["stratum"] == "", "in no fold", ""))
        clips["group"] = copies.mark(everyone, folder, limits)["group"]
    clips = copies.mark(clips, folder, limits)
    task.require_all(clips)
    if not task.stratify:
        clips["stratum"] = clips["stratum"].where(clips["left_out"] == "", "")
    return TaskClips(task, clips, divide(clips, task.name, stage, folds, fold_seeds))


def load_frames(task: Task, clips: pd.DataFrame) -> TaskFrames:
    """The frames of the clips, in the order of the store.

    Args:
        clips: clip, patient, group, label, and `fold` if the frames' table is to have it.
    """
    data, target = store.read(f"data/frames/{task.source}"), device()
    columns = clips.columns.intersection(["clip", "patient", "group", "label", "fold"])
    table = data.frame_table.merge(clips[columns], on="clip", sort=False)
    table = table.sort_values("row").reset_index(drop=True)
    grey = torch.from_numpy(data.frames[table["row"].to_numpy()]).unsqueeze(1).to(target)
    return TaskFrames(grey, torch.tensor([task.classes.index(label) for label in table["label"]], device=target), table)


def unfinished_run(stage: str, task: Task, init: str, settings: dict, files: list[str]) -> Resume:
    """The state of a killed run of the same settings, data and code.

    Args:
        init: the initial weights; if it names a file, the file counts as data.
        settings: everything else that decides the results, as JSON can hold it.
        files: of the frame store, that the stage reads.
    """
    inputs = [checkpoint.PRETRAINED, *named_file(init), *(Path("data/frames", task.source, name) for name in files)]
    settings = settings | {"init": init, "task": task.values}
    settings |= {key: getattr(task, key) for key in ("target", "subsets", "stratify")}
    return unfinished(f"{stage}_{task.name}", settings, inputs, STAGES / f"{stage}.py")


def write_folds(name: str, clips: TaskClips) -> None:
    """data/folds/<name>.csv: the fold of each clip (fold; fold_<name> of further divisions), its copies, why it is left out."""
    first, *others = clips.divisions
    columns = {"fold": clips.divisions[first]} | {f"fold_{other}": clips.divisions[other] for other in others}
    table = clips.table[["clip", "patient", "label", "copy_of", "left_out"]].copy()
    for place, (column, fold) in enumerate(columns.items(), start=3):
        table.insert(place, column, fold)
    store.write_csv(f"data/folds/{name}.csv", table)
