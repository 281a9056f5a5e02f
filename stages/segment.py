"""Segmentation of lesions: folds by patient, train Mask R-CNN on all but one, predict the held-out patients.

reads   data/frames/<source>/                            frame store of the task's source, with masks
        models/pretrained.safetensors                    the backbone's architecture and, for `init: pretrained`, its weights
writes  data/folds/<task>_segmentation.csv               clip, patient, label, fold (empty if left out), copy_of, left_out
                                                         (the reason)
        reports/predictions/<task>_segmentation.csv      a row per image: clip, patient, fold, label, lesions, found,
                                                         detections, dice, precision, sensitivity (segmentation/masks.py)
        reports/predictions/<task>_segmentation.json     every detection, as COCO results; image_id: row of frames.npy
        reports/predictions/<task>_segmentation_folds.csv    fold, loss (of the last epoch), mask_ap, mask_ap50, box_ap, …
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Len, Lt

from stages.lib.clips import store
from stages.lib.clips.copies import CopyDistance
from stages.lib.clips.tasks import Task, read_task
from stages.lib.evaluation.fine_tuning import Statistics, Trainable
from stages.lib.evaluation.folds import GIVEN
from stages.lib.evaluation.preparation import TaskClips, TaskFrames, load_frames, prepare, unfinished_run, write_folds
from stages.lib.networks import checkpoint
from stages.lib.networks.backbone import Backbone
from stages.lib.networks.initial import Init
from stages.lib.networks.mask_rcnn import LEVELS, require_resnet
from stages.lib.networks.normalisation import filled_in
from stages.lib.params import Count, Fraction, Seed, from_params, require
from stages.lib.running.stage import run
from stages.lib.segmentation.cross_validation import Recipe, cross_validate, score
from stages.lib.training.optimizer import OptimizerBlock
from stages.lib.training.views import Views, ViewsBlock


def main(
    seed: Seed, copy_distance: CopyDistance, tasks: dict, task: str, init: Init, trainable: Trainable,
    frozen_statistics: Statistics, folds: Annotated[int, Ge(2)], fold_seed: Seed, epochs: Count,
    batch_size: Annotated[int, Ge(2)], input_px: Annotated[int, Ge(32)], pyramid_width: Count, proposals: Count,
    optimizer: OptimizerBlock, views: ViewsBlock,
    anchors: Annotated[list[Annotated[Fraction, Gt(0)]], Len(LEVELS, LEVELS)], score_threshold: Annotated[float, Gt(0), Lt(1)],
) -> None:  # fmt: skip
    """Cross-validate the segmentation of one task; every image is predicted once, by a network that never saw its patient.

    Args:
        task: its name; its source has masks. The other arguments are keys of params.yaml, which explains them.

    Raises:
        UserError: an impossible setting, or a source without masks; nothing is written then.
    """
    arch = checkpoint.facts()["arch"]
    views = from_params(Views, filled_in(views, init, Backbone(arch), "segment.init"), "segment.views")
    sizes = {"input_px": input_px, "pyramid_width": pyramid_width, "anchors": anchors, "proposals": proposals}
    recipe = Recipe(arch, init, trainable, epochs, batch_size, optimizer, views, frozen_statistics, sizes)
    recipe.network()                            # a wrong setting stops the run before a frame is read
    clips = plan(task, tasks, arch, copy_distance, folds, fold_seed)
    task, division = clips.task, next(iter(clips.divisions))
    frames = load_frames(task, clips.in_folds(division))
    lesions = lesion_maps(task, frames)
    settings = recipe._asdict() | {"views": vars(views), "seed": seed, "folds": folds, "fold_seed": fold_seed,
                                   "score_threshold": score_threshold, "copy_distance": copy_distance,
                                   "device": frames.grey.device.type}
    resume = unfinished_run("segment", task, init, settings, ["frames.npy", "masks.npy", "clips.csv"])
    detected, fold_rows = cross_validate(recipe, frames, lesions, seed, resume, f"segment {task.name}", division == GIVEN)

    name, by_fold = f"{task.name}_segmentation", pd.DataFrame(fold_rows)
    images = score(frames.table, lesions, detected, score_threshold)
    write_folds(name, clips)
    store.write_csv(f"reports/predictions/{name}.csv", images)
    store.write_csv(f"reports/predictions/{name}_folds.csv", by_fold.round(6))
    with store.replacing(f"reports/predictions/{name}.json", folder=False) as partial:
        partial.write_text(json.dumps(detected) + "\n", encoding="utf-8")
    print(f"reports/predictions/{name}.csv: {len(images)} held-out images, mean Dice {images['dice'].mean():.3f}, mask AP "
          f"{by_fold['mask_ap'].mean():.3f}; `dvc repro` goes on to reports/report.html")
    resume.remove()


def plan(task: str, tasks: dict, arch: str, copy_distance: dict, folds: int, fold_seed: int) -> TaskClips:
    """The clips of a task in folds; arguments as in `main`. Pretraining calls it, too, so that settings which the network or
    the clips do not allow stop the pipeline before the long work.
    """
    require_resnet(Backbone(arch))
    task = read_task(task, tasks)
    path = masks_of(task)
    require(path.exists(), f"{path} is missing: the source {task.source} has no masks, and segmentation needs them; take "
            f"{task.name} out of segment.tasks")
    return prepare("segment", task, copy_distance, folds, [fold_seed])


def masks_of(task: Task) -> Path:
    """The file of the lesion maps of all frames of a task's source."""
    return Path(f"data/frames/{task.source}/masks.npy")


def lesion_maps(task: Task, frames: TaskFrames) -> np.ndarray:
    """The lesion maps [N, H, W] uint8 of the task's frames: 0, or the number of the lesion.

    Raises:
        UserError: the task's images have no lesion.
    """
    lesions = np.load(masks_of(task))[frames.table["row"].to_numpy()]
    require(lesions.any(), f"{masks_of(task)} holds no lesion of the task; see data/frames/{task.source}/clips.csv")
    return lesions


if __name__ == "__main__":
    run(main, stage="segment", item="task", lower="segment.batch_size or segment.input_px")
