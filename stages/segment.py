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
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torchvision.models.detection import MaskRCNN

from stages.lib.clips import copies
from stages.lib.clips.tasks import task_clips
from stages.lib.evaluation import masks
from stages.lib.evaluation.fine_tuning import load_frames
from stages.lib.evaluation.folds import check_apart, require_all, with_folds
from stages.lib.networks import checkpoint
from stages.lib.networks.backbone import Backbone
from stages.lib.networks.initial import initialise, named_file
from stages.lib.networks.mask_rcnn import mask_rcnn, targets
from stages.lib.params import from_params, require, run
from stages.lib.training.device import generator
from stages.lib.training.optimizer import optimizer_and_schedule, set_learning_rate
from stages.lib.training.progress import Progress
from stages.lib.training.resume import Resume
from stages.lib.training.views import Views


def main(
    seed: int,
    task: str,
    init: str,
    trainable: str,
    folds: int,
    fold_seed: int,
    epochs: int,
    batch_size: int,
    input_px: int,
    pyramid_width: int,
    anchors: list,
    proposals: int,
    score_threshold: float,
    optimizer: dict,
    views: dict,
    assemble_us4: dict,
    tasks: dict,
) -> None:
    """Cross-validate the segmentation of one task; every image is predicted once, by a network that never saw its patient.

    Args:
        seed: of initial weights, order of images, views and the regions that the heads train on.
        task: whose images, of all its classes; a source of the same name has their masks.
        init: random | imagenet | pretrained | a file: the backbone's weights before training.
        trainable: last_block | head | all; what of the backbone trains beside feature pyramid and heads.
        folds: into how many parts the patients are divided.
        fold_seed: of the division.
        epochs: passes over the training images; the last epoch's weights predict.
        batch_size: images per step.
        input_px: side to which the network enlarges an image.
        pyramid_width: channels of the feature pyramid and of the heads on it.
        anchors: side of the anchor boxes on each of the five levels, as fractions of the image's.
        proposals: regions per image that go on from the first stage to the second.
        score_threshold: of the detections whose union is the predicted mask; the APs take all.
        optimizer: {name, learning_rate, weight_decay, …}.
        views: augmentation of the training images.
        assemble_us4: {copy_distance}: of images that are taken for copies of each other.
        tasks: classes and subsets of each task.
    """
    arch = checkpoint.facts()["arch"]
    settings = {"init": init, "trainable": trainable, "input_px": input_px, "pyramid_width": pyramid_width,
                "anchors": anchors, "proposals": proposals}
    for name, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 2)):
        require(value >= least, f"params.yaml: segment.{name} is {value}; it must be at least {least}")
    require(0 < score_threshold < 1, f"params.yaml: segment.score_threshold is {score_threshold}; it must lie between 0 and 1")
    views = from_params(Views, views, "segment.views")
    build(arch, views=views, **settings)
    same, used = copies.limits(assemble_us4["copy_distance"]), task_clips(task, tasks)
    classes = tasks[task]["classes"]
    clips = with_folds(copies.mark(used, f"data/frames/{task}", same), task, folds, fold_seed, "segment")
    require_all(clips, task, classes)
    stored = Path(f"data/frames/{task}/masks.npy")
    require(stored.exists(), f"{stored} is missing: the source {task} has no masks, and segmentation needs them")
    frames = load_frames(task, clips, classes)
    table, where = frames.table, frames.grey.device
    lesions = np.load(stored)[table["row"].to_numpy()]                          # N x H x W
    require(lesions.any(), f"{stored} holds no lesion of the task; see data/frames/{task}/clips.csv")

    facts = settings | {"seed": seed, "folds": folds, "fold_seed": fold_seed, "epochs": epochs, "batch_size": batch_size,
                        "score_threshold": score_threshold, "optimizer": optimizer, "views": vars(views),
                        "classes": classes, "device": where.type, "copy_distance": same._asdict()}
    inputs = [checkpoint.PRETRAINED, *named_file(init), stored, stored.with_name("frames.npy"), stored.with_name("clips.csv")]
    code = [Path(__file__), *sorted(Path(__file__).parent.glob("lib/**/*.py"))]
    resume = Resume(f"models/segment_{task}.unfinished", facts, [*inputs, *code])
    state = resume.load() or {"detected": [], "folds": []}
    detected, rows = state["detected"], state["folds"]

    epochs_done = Progress(f"segment {task}", folds * epochs, len(rows) * epochs)
    data = frames.grey, torch.from_numpy(lesions).unsqueeze(1).to(where)    # N x 1 x H x W each
    for fold in range(len(rows), folds):
        held_out = table["fold"].to_numpy(dtype=int) == fold
        check_apart(table, {"training": ~held_out, "held_out": held_out})
        torch.manual_seed(seed * folds + fold)
        network = build(arch, views=views, **settings).to(where)
        draw = generator(seed * folds + fold, where)
        training = [part[torch.from_numpy(~held_out).to(where)] for part in data]
        losses = []
        for loss in train(network, *training, views, optimizer, epochs, batch_size, draw):
            losses.append(loss)
            epochs_done.step(fold=fold, loss=loss)
        images = table["row"][held_out].tolist()
        ours = predict(network, data[0][torch.from_numpy(held_out).to(where)], images, batch_size)
        maps = dict(zip(images, lesions[held_out], strict=True))
        rows.append({"fold": fold, "loss": losses[-1]} | masks.average_precision(maps, ours))
        detected += ours
        resume.save(detected=detected, folds=rows)

    write(task, clips, score(table, lesions, detected, score_threshold), detected, pd.DataFrame(rows))
    resume.remove()


def build(arch: str, init: str, trainable: str, views: Views, **sizes) -> MaskRCNN:
    """Mask R-CNN on a backbone with its first weights, of which only `trainable` trains; `sizes` as in mask_rcnn.py."""
    backbone = initialise(Backbone(arch), init, "segment.init")
    backbone.train_only(trainable, "segment.trainable")
    return mask_rcnn(backbone, mean=views.mean, std=views.std, **sizes)


def train(
    network: MaskRCNN,
    frames: torch.Tensor,
    lesions: torch.Tensor,
    views: Views,
    settings: dict,
    epochs: int,
    batch_size: int,
    draw: torch.Generator,
) -> Iterator[float]:
    """Train on frames and lesion maps [N, 1, H, W] uint8; yields the mean loss after every epoch."""
    rows_per_epoch = len(frames) - (len(frames) % batch_size == 1)              # batch norm cannot take a batch of one
    steps = math.ceil(rows_per_epoch / batch_size)
    given = {"parameters": network.parameters(), "steps": epochs * steps}
    optimizer, schedule = from_params(optimizer_and_schedule, settings, "segment.optimizer", **given)
    for epoch in range(epochs):
        network.train()
        order = torch.randperm(len(frames), generator=draw, device=draw.device)[:rows_per_epoch]
        total = 0.0
        for step, chosen in enumerate(order.split(batch_size), epoch * steps):
            set_learning_rate(optimizer, schedule(step))
            seen, where = views.with_masks(frames[chosen].float() / 255, lesions[chosen], draw)
            losses = network(list(seen.expand(-1, 3, -1, -1)), targets(where))
            loss = sum(losses.values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(chosen)
        mean = float(total) / rows_per_epoch
        require(math.isfinite(mean), f"the loss is {mean} after epoch {epoch}; lower segment.optimizer.learning_rate")
        yield mean


@torch.no_grad()
def predict(network: MaskRCNN, frames: torch.Tensor, images: list[int], batch_size: int) -> list[dict]:
    """The detections of frames [N, 1, H, W] uint8, as they are, as COCO results with the numbers `images`."""
    network.eval()
    lines = []
    for part, names in zip(frames.split(batch_size), torch.tensor(images).split(batch_size), strict=True):
        outputs = network(list((part.float() / 255).expand(-1, 3, -1, -1)))
        for name, output in zip(names.tolist(), outputs, strict=True):
            boxes, scores, inside = (output[key].cpu().numpy() for key in ("boxes", "scores", "masks"))
            lines += masks.detections(name, boxes, scores, inside[:, 0] > 0.5)
    return lines


def score(table: pd.DataFrame, lesions: np.ndarray, detected: list[dict], threshold: float) -> pd.DataFrame:
    """A row per image: what its detections above the threshold, together, have of its lesions."""
    sure = defaultdict(list)
    for line in detected:
        if line["score"] >= threshold:
            sure[line["image_id"]].append(masks.decode(line["segmentation"]))
    rows = []
    for row, truth in zip(table["row"], lesions, strict=True):
        inside = np.array(sure[row], bool).reshape(-1, *truth.shape)            # K x H x W
        counts = {"lesions": len(np.unique(truth[truth > 0])), "found": masks.found(truth, inside), "predicted": len(inside)}
        rows.append(counts | masks.overlap(truth > 0, inside.any(0)))
    return pd.concat([table[["clip", "patient", "group", "fold", "label"]], pd.DataFrame(rows).round(6)], axis=1)


def write(task: str, clips: pd.DataFrame, images: pd.DataFrame, detected: list[dict], folds: pd.DataFrame) -> None:
    """The folds of the clips, and what was predicted, per image, per detection and per fold."""
    name = f"{task}_segmentation"
    outputs = {
        f"data/folds/{name}.csv": clips[["clip", "patient", "label", "fold", "copy_of", "left_out"]].to_csv(index=False),
        f"reports/predictions/{name}.csv": images.to_csv(index=False),
        f"reports/predictions/{name}_folds.csv": folds.round(6).to_csv(index=False),
        f"reports/predictions/{name}.json": json.dumps(detected) + "\n",
    }
    for path, text in outputs.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    print(f"reports/predictions/{name}.csv: {len(images)} held-out images, mean Dice {images['dice'].mean():.3f}, mask AP "
          f"{folds['mask_ap'].mean():.3f}; `dvc repro` goes on to reports/report.html")


if __name__ == "__main__":
    run(main, stage="segment", item="task")
