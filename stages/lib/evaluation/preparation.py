"""What fine-tuning and segmentation prepare alike: a task's clips in folds, its frames, and the state of an unfinished run."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from stages.lib.clips import copies, store
from stages.lib.clips.tasks import task_clips
from stages.lib.evaluation.folds import require_all, with_folds
from stages.lib.networks import checkpoint
from stages.lib.networks.initial import named_file
from stages.lib.training.device import device
from stages.lib.training.resume import Resume, unfinished

STAGES = Path(__file__).parents[2]


class TaskFrames(NamedTuple):
    """The frames of a task, loaded once, on the device; every seed and fold indexes into them."""

    grey: torch.Tensor      # N x 1 x H x W, uint8
    labels: torch.Tensor    # N, the place of the class in tasks.<task>.classes
    table: pd.DataFrame     # row (in the store), clip, frame, patient, group, label, fold of each frame


def divided(stage: str, task: str, tasks: dict, copy_distance: dict, folds: int, fold_seed: int) -> pd.DataFrame:
    """The clip table of a task with the columns copy_of, group and fold, and a reason in left_out for each unused clip.

    Args:
        stage: finetune | segment; the sentences for the user name its keys.
        tasks, copy_distance: the blocks of params.yaml.
        folds, fold_seed: of the division by patient.

    Raises:
        UserError: the task cannot be evaluated with these settings.
    """
    limits, clips = copies.limits(copy_distance), task_clips(task, tasks)
    clips = with_folds(copies.mark(clips, f"data/frames/{task}", limits), task, folds, fold_seed, stage)
    require_all(clips, task, tasks[task]["classes"])
    return clips


def load_frames(task: str, clips: pd.DataFrame, classes: list[str]) -> TaskFrames:
    """The frames of the clips that have a fold, in the order of the store."""
    data, target = store.read(f"data/frames/{task}"), device()
    used = clips.loc[clips["left_out"] == "", ["clip", "patient", "group", "label", "fold"]]
    table = data.frame_table.merge(used, on="clip", sort=False).sort_values("row").reset_index(drop=True)
    grey = torch.from_numpy(data.frames[table["row"].to_numpy()]).unsqueeze(1).to(target)
    return TaskFrames(grey, torch.tensor([classes.index(label) for label in table["label"]], device=target), table)


def unfinished_run(stage: str, task: str, init: str, settings: dict, files: list[str]) -> Resume:
    """The state of a killed run of the same settings, data and code.

    Args:
        init: the initial weights; if it names a file, the file counts as data.
        settings: everything else that decides the results, as JSON can hold it.
        files: of the frame store, that the stage reads.
    """
    inputs = [checkpoint.PRETRAINED, *named_file(init), *(Path("data/frames", task, name) for name in files)]
    return unfinished(f"{stage}_{task}", settings | {"init": init}, inputs, STAGES / f"{stage}.py")


def write_folds(name: str, clips: pd.DataFrame) -> None:
    """data/folds/<name>.csv: who is in which fold, and who is left out and why."""
    write_csv(f"data/folds/{name}.csv", clips[["clip", "patient", "label", "fold", "copy_of", "left_out"]])


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table without its index; make the folder first."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
