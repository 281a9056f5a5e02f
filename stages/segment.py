"""Segmentation of lesions: folds by patient, train Mask R-CNN on all but one, predict the held-out patients.

reads   data/frames/<task>/                              frame store of the source of the same name, with masks
        models/pretrained.safetensors                    the backbone's architecture and, for `init: pretrained`, its weights
writes  data/folds/<task>_segmentation.csv               clip, patient, label, fold (empty if left out), copy_of, left_out
                                                         (the reason)
        reports/predictions/<task>_segmentation.csv      a row per image: clip, patient, fold, label, lesions, found,
                                                         predicted, dice, precision, sensitivity (evaluation/masks.py)
        reports/predictions/<task>_segmentation.json     every detection, as COCO results; image_id: row of frames.npy
        reports/predictions/<task>_segmentation_folds.csv    fold, loss (of the last epoch), mask_ap, mask_ap50, box_ap, …
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Len, Lt

from stages.lib.evaluation.fine_tuning import Trainable
from stages.lib.evaluation.preparation import TaskFrames, divided, load_frames, unfinished_run, write_csv, write_folds
from stages.lib.evaluation.segmentation import Recipe, cross_validate, score
from stages.lib.networks import checkpoint
from stages.lib.networks.mask_rcnn import LEVELS
from stages.lib.params import Count, Fraction, Seed, from_params, require, run
from stages.lib.training.views import Views


def main(
    seed: Seed, copy_distance: dict, tasks: dict, task: str, init: str, trainable: Trainable, folds: Annotated[int, Ge(2)],
    fold_seed: Seed, epochs: Count, batch_size: Annotated[int, Ge(2)], input_px: Annotated[int, Ge(32)], pyramid_width: Count,
    anchors: Annotated[list[Annotated[Fraction, Gt(0)]], Len(LEVELS, LEVELS)], proposals: Count,
    score_threshold: Annotated[float, Gt(0), Lt(1)], optimizer: dict, views: dict,
) -> None:  # fmt: skip
    """Cross-validate the segmentation of one task; every image is predicted once, by a network that never saw its patient.

    Args:
        task: its name; a source of the same name has masks. The other arguments are keys of params.yaml, which explains them.

    Raises:
        UserError: an impossible setting, or a source without masks; nothing is written then.
    """
    views = from_params(Views, views, "segment.views")
    sizes = {"input_px": input_px, "pyramid_width": pyramid_width, "anchors": anchors, "proposals": proposals}
    recipe = Recipe(checkpoint.facts()["arch"], init, trainable, epochs, batch_size, optimizer, views, sizes)
    recipe.network()                            # a wrong setting stops the run before a frame is read
    clips, classes = divided("segment", task, tasks, copy_distance, folds, fold_seed), tasks[task]["classes"]
    frames = load_frames(task, clips, classes)
    lesions = lesion_maps(task, frames)
    settings = recipe._asdict() | {"views": vars(views), "seed": seed, "folds": folds, "fold_seed": fold_seed,
                                   "score_threshold": score_threshold, "classes": classes, "copy_distance": copy_distance,
                                   "device": frames.grey.device.type}
    resume = unfinished_run("segment", task, init, settings, ["frames.npy", "masks.npy", "clips.csv"])
    detected, fold_rows = cross_validate(recipe, frames, lesions, folds, seed, resume, f"segment {task}")

    name, by_fold = f"{task}_segmentation", pd.DataFrame(fold_rows)
    images = score(frames.table, lesions, detected, score_threshold)
    write_folds(name, clips)
    write_csv(f"reports/predictions/{name}.csv", images)
    write_csv(f"reports/predictions/{name}_folds.csv", by_fold.round(6))
    Path(f"reports/predictions/{name}.json").write_text(json.dumps(detected) + "\n", encoding="utf-8")
    print(f"reports/predictions/{name}.csv: {len(images)} held-out images, mean Dice {images['dice'].mean():.3f}, mask AP "
          f"{by_fold['mask_ap'].mean():.3f}; `dvc repro` goes on to reports/report.html")
    resume.remove()


def lesion_maps(task: str, frames: TaskFrames) -> np.ndarray:
    """The lesion maps [N, H, W] uint8 of the task's frames: 0, or the number of the lesion.

    Raises:
        UserError: the source has no masks, or the task's images have no lesion.
    """
    path = Path(f"data/frames/{task}/masks.npy")
    require(path.exists(), f"{path} is missing: the source {task} has no masks, and segmentation needs them")
    lesions = np.load(path)[frames.table["row"].to_numpy()]
    require(lesions.any(), f"{path} holds no lesion of the task; see data/frames/{task}/clips.csv")
    return lesions


if __name__ == "__main__":
    run(main, stage="segment", item="task")
