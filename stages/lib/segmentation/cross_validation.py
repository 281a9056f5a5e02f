"""Segmentation of lesions: Mask R-CNN, trained on some images of a task and asked about others."""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torchvision.models.detection import MaskRCNN

from stages.lib.evaluation.fine_tuning import Statistics, Trainable
from stages.lib.evaluation.folds import check_apart
from stages.lib.evaluation.frozen_probes import CHUNK, set_statistics
from stages.lib.evaluation.preparation import TaskFrames
from stages.lib.networks.backbone import Backbone, train_mode
from stages.lib.networks.initial import initialise
from stages.lib.networks.mask_rcnn import mask_rcnn, targets
from stages.lib.params import from_params, require
from stages.lib.segmentation import masks
from stages.lib.training.device import generator
from stages.lib.training.optimizer import optimizer_and_schedule, set_learning_rate
from stages.lib.training.progress import Progress
from stages.lib.training.resume import Resume
from stages.lib.training.threads import THREADS
from stages.lib.training.views import Views


class Recipe(NamedTuple):
    """How a network is trained, the same for every fold; `sizes` are the arguments of networks/mask_rcnn.py."""

    arch: str
    init: str
    trainable: Trainable
    epochs: int
    batch_size: int
    optimizer: dict
    views: Views
    frozen_statistics: Statistics
    sizes: dict

    def network(self, frames: torch.Tensor | None = None) -> MaskRCNN:
        """Mask R-CNN on a backbone with its initial weights, of which only `trainable` trains.

        Args:
            frames: to train on, [N, 1, H, W] uint8. At most CHUNK of them give frozen random weights the statistics of batch
                norm, as in fine-tuning; None: these stay 0 and 1.
        """
        backbone = initialise(Backbone(self.arch), self.init, "segment.init")
        if frames is not None and self.init == "random" and self.frozen_statistics == "fixed" and self.trainable != "all":
            some = frames[:: math.ceil(len(frames) / CHUNK)].float()
            enlarged = F.interpolate(some, [self.sizes["input_px"]] * 2, mode="bilinear")
            set_statistics(backbone.to(frames.device), enlarged, self.views)
        backbone.train_only(self.trainable, "segment.trainable")
        return mask_rcnn(backbone, mean=self.views.mean, std=self.views.std, **self.sizes)


def cross_validate(
    recipe: Recipe, frames: TaskFrames, lesions: np.ndarray, seed: int, resume: Resume, name: str, given: bool = False
) -> tuple[list[dict], list[dict]]:
    """Train and predict every fold that `resume` does not hold yet.

    Args:
        frames: with the column `fold` in their table.
        lesions: lesion maps [N, H, W] of the frames.
        name: of the run, printed beside the progress.
        given: the clip table gives the folds; only then may a patient be on both sides.

    Returns:
        All detections as COCO results; a row per fold: fold, loss (of the last epoch), average precisions.
    """
    state = resume.load() or {"detected": [], "folds": []}
    detected, rows = state["detected"], state["folds"]
    table, device = frames.table, frames.grey.device
    folds = int(table["fold"].max()) + 1
    progress = Progress(name, folds * recipe.epochs, len(rows) * recipe.epochs)
    data = frames.grey, torch.from_numpy(lesions).unsqueeze(1).to(device)       # N x 1 x H x W each
    for fold in range(len(rows), folds):
        held_out = table["fold"].to_numpy(dtype=int) == fold
        if not given:
            check_apart(table, {"training": ~held_out, "held_out": held_out})
        torch.manual_seed(seed * folds + fold)
        training = [part[torch.from_numpy(~held_out).to(device)] for part in data]
        network = recipe.network(training[0]).to(device)
        losses = []
        for loss in train(network, *training, recipe, generator(seed * folds + fold, device)):
            losses.append(loss)
            progress.step(fold=fold, loss=loss)
        images = table["row"][held_out].tolist()
        found = predict(network, data[0][torch.from_numpy(held_out).to(device)], images, recipe.batch_size)
        maps = dict(zip(images, lesions[held_out], strict=True))
        rows.append({"fold": fold, "loss": losses[-1]} | masks.average_precision(maps, found))
        detected += found
        resume.save(detected=detected, folds=rows)
    return detected, rows


def train(
    network: MaskRCNN, frames: torch.Tensor, lesions: torch.Tensor, recipe: Recipe, draw: torch.Generator
) -> Iterator[float]:
    """Train on frames and lesion maps [N, 1, H, W] uint8; yields the mean loss after every epoch."""
    size = recipe.batch_size
    rows_per_epoch = len(frames) - (len(frames) % size == 1)                    # batch norm cannot take a batch of one
    steps = math.ceil(rows_per_epoch / size)
    given = {"parameters": network.parameters(), "steps": recipe.epochs * steps}
    optimizer, schedule = from_params(optimizer_and_schedule, recipe.optimizer, "segment.optimizer", **given)
    for epoch in range(recipe.epochs):
        train_mode(network, recipe.frozen_statistics)
        order = torch.randperm(len(frames), generator=draw, device=draw.device)[:rows_per_epoch]
        total = 0.0
        for step, batch in enumerate(order.split(size), epoch * steps):
            THREADS.look()
            set_learning_rate(optimizer, schedule(step))
            views, maps = recipe.views.with_masks(frames[batch].float() / 255, lesions[batch], draw)
            loss = sum(network(list(views.expand(-1, 3, -1, -1)), targets(maps)).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(batch)
        mean = float(total) / rows_per_epoch
        require(math.isfinite(mean), f"the loss is {mean} after epoch {epoch}; lower segment.optimizer.learning_rate")
        yield mean


@torch.no_grad()
def predict(network: MaskRCNN, frames: torch.Tensor, images: list[int], batch_size: int) -> list[dict]:
    """The detections of frames [N, 1, H, W] uint8, without augmentation, as COCO results with the numbers `images`."""
    network.eval()
    lines = []
    for part, numbers in zip(frames.split(batch_size), torch.tensor(images).split(batch_size), strict=True):
        outputs = network(list((part.float() / 255).expand(-1, 3, -1, -1)))
        for number, output in zip(numbers.tolist(), outputs, strict=True):
            boxes, scores, inside = (output[key].cpu().numpy() for key in ("boxes", "scores", "masks"))
            lines += masks.detections(number, boxes, scores, inside[:, 0] > 0.5)
    return lines


def score(table: pd.DataFrame, lesions: np.ndarray, detected: list[dict], threshold: float) -> pd.DataFrame:
    """A row per held-out image: how the detections above the threshold, together, overlap its lesions.

    Args:
        table: row (the image's number), clip, patient, group, fold, label of each image; those of fold −1 only train.
        lesions: their lesion maps [N, H, W].
    """
    held_out, sure = table["fold"].to_numpy(dtype=int) >= 0, defaultdict(list)
    table, lesions = table[held_out].reset_index(drop=True), lesions[held_out]
    for line in detected:
        if line["score"] >= threshold:
            sure[line["image_id"]].append(masks.decode(line["segmentation"]))
    rows = []
    for row, truth in zip(table["row"], lesions, strict=True):
        inside = np.array(sure[row], bool).reshape(-1, *truth.shape)            # K x H x W
        counts = {"lesions": len(np.unique(truth[truth > 0])), "found": masks.found(truth, inside), "detections": len(inside)}
        rows.append(counts | masks.overlap(truth > 0, inside.any(0)))
    return pd.concat([table[["clip", "patient", "group", "fold", "label"]], pd.DataFrame(rows).round(6)], axis=1)
