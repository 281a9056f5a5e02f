"""Fine-tuning: a classifier on a backbone, trained on some frames of a task and asked about others."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F

from stages.lib.clips import store
from stages.lib.networks.backbone import Backbone, Classifier
from stages.lib.networks.initial import initialise
from stages.lib.params import from_params
from stages.lib.training.device import device, generator
from stages.lib.training.optimizer import optimizer_and_schedule, set_learning_rate
from stages.lib.training.views import Views


class Recipe(NamedTuple):
    """How a network is trained: the same for every seed and fold, and for the last one, on all patients."""

    arch: str
    init: str
    trainable: str
    classes: list[str]
    epochs: int
    batch_size: int
    optimizer: dict
    views: Views

    def network(self, stream: int) -> Classifier:
        """A network before fine-tuning; `stream` seeds what is random in it."""
        torch.manual_seed(stream)
        network = Classifier(initialise(Backbone(self.arch), self.init, "finetune.init"), len(self.classes))
        network.train_only(self.trainable)
        return network

    def optimizer_and_schedule(self, network: Classifier, steps: int) -> tuple[torch.optim.Optimizer, Callable[[int], float]]:
        """Its optimiser and the learning rate of each of so many steps."""
        given = {"parameters": network.parameters(), "steps": steps}
        return from_params(optimizer_and_schedule, self.optimizer, "finetune.optimizer", **given)


class Frames(NamedTuple):
    """The frames of a task, once, on the device; every seed and fold indexes into them."""

    grey: torch.Tensor      # N x 1 x H x W, uint8
    labels: torch.Tensor    # N, the place of the class in tasks.<task>.classes
    table: pd.DataFrame     # clip, frame, patient, group, label, fold of each


def load_frames(task: str, clips: pd.DataFrame, classes: list[str]) -> Frames:
    """The frames of the clips that have a fold."""
    data, where = store.read(f"data/frames/{task}"), device()
    used = clips.loc[clips["left_out"] == "", ["clip", "patient", "group", "label", "fold"]]
    table = data.frame_table.merge(used, on="clip", sort=False).sort_values("row").reset_index(drop=True)
    grey = torch.from_numpy(data.frames[table["row"].to_numpy()]).unsqueeze(1).to(where)
    return Frames(grey, torch.tensor([classes.index(label) for label in table["label"]], device=where), table)


def fit(recipe: Recipe, frames: Frames, training: torch.Tensor, stream: int) -> Iterator[tuple[Classifier, float]]:
    """Train a network on the frames `training`, numbers of rows; yields it and the mean loss after every epoch.

    Args:
        stream: seeds the new classifier, the order of the frames and their views.
    """
    where = frames.grey.device
    network = recipe.network(stream).to(where)
    draw = generator(stream, where)
    rows_per_epoch = len(training) - (len(training) % recipe.batch_size == 1)   # batch norm cannot take a batch of one
    steps = math.ceil(rows_per_epoch / recipe.batch_size)
    optimizer, schedule = recipe.optimizer_and_schedule(network, recipe.epochs * steps)
    for epoch in range(recipe.epochs):
        network.train()
        order = training[torch.randperm(len(training), generator=draw, device=where)[:rows_per_epoch]]
        total = 0.0
        for step, chosen in enumerate(order.split(recipe.batch_size), epoch * steps):
            set_learning_rate(optimizer, schedule(step))
            seen = recipe.views.normalise(recipe.views(frames.grey[chosen].float() / 255, draw))    # B x 1 x H x W
            loss = F.cross_entropy(network(seen), frames.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(chosen)
        yield network, float(total) / rows_per_epoch


@torch.no_grad()
def predict(network: Classifier, frames: Frames, rows: torch.Tensor, views: Views) -> torch.Tensor:
    """Logits [n, classes] of the frames `rows`, as they are: no augmentation, running statistics."""
    network.eval()
    return torch.cat([network(views.normalise(frames.grey[part].float() / 255)) for part in rows.split(256)])


def inner_loss(network: Classifier, frames: Frames, rows: torch.Tensor, views: Views) -> float:
    """Mean cross-entropy of the frames `rows`; NaN where there are none."""
    return float(F.cross_entropy(predict(network, frames, rows, views), frames.labels[rows])) if len(rows) else math.nan
