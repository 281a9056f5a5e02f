"""Fine-tuning: a classifier on a backbone, trained on some frames of a task and asked about others."""

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import AfterValidator

from stages.lib.evaluation.frozen_probes import set_statistics
from stages.lib.evaluation.preparation import TaskFrames
from stages.lib.networks.backbone import Backbone, Classifier, train_mode
from stages.lib.networks.initial import initialise
from stages.lib.params import block_of, from_params, require
from stages.lib.training.device import generator
from stages.lib.training.optimizer import optimizer_and_schedule, set_learning_rate
from stages.lib.training.threads import THREADS
from stages.lib.training.views import Views

Trainable = Literal["last_block", "head", "all"]        # what trains beside the new classifier
Statistics = Literal["fixed", "updated"]                # of frozen batch norm: networks.backbone.train_mode


def _with_units_to_drop(head: dict) -> dict:
    """The block, unless it drops units of a hidden layer that it does not have."""
    dropout = head.get("dropout", 0)
    require(head.get("hidden_width") is not None or dropout == 0, f"params.yaml: finetune.head.dropout is {dropout}; it drops "
            "units of the hidden layer, so give it a hidden_width, or set dropout to 0.0")
    return head


HeadBlock = Annotated[block_of(Classifier, "backbone", "classes"), AfterValidator(_with_units_to_drop)]


class Recipe(NamedTuple):
    """How a network is trained: the same for every seed and fold, and for the last one, on all patients."""

    arch: str
    init: str
    trainable: Trainable
    classes: list[str]
    epochs: int
    min_steps: int
    head_first: float
    backbone_rate: float
    measure_every: int
    batch_size: int
    optimizer: dict
    views: Views
    frozen_statistics: Statistics
    hidden_width: int | None = None         # of the classifier head: networks.backbone.Classifier
    dropout: float = 0.0

    def network(self, stream: int) -> Classifier:
        """A network before fine-tuning; `stream` seeds its random weights."""
        torch.manual_seed(stream)
        backbone = initialise(Backbone(self.arch), self.init, "finetune.init")
        network = Classifier(backbone, len(self.classes), self.hidden_width, self.dropout)
        network.train_only(self.trainable)
        return network

    def passes(self, frames: int) -> int:
        """Passes over so many training frames: `epochs`, or more where these make fewer than `min_steps` steps."""
        return max(self.epochs, math.ceil(self.min_steps / self.steps(frames)))

    def steps(self, frames: int) -> int:
        """Steps of one pass. A last batch of one frame, which batch norm cannot take, is left out."""
        return frames // self.batch_size + (frames % self.batch_size > 1)

    def optimizer_and_schedule(self, network: Classifier, steps: int) -> tuple[torch.optim.Optimizer, Callable[[int], float]]:
        """The optimiser, and a function that gives the learning rate of each of `steps` steps."""
        groups = [{"params": network.backbone.parameters(), "rate_factor": self.backbone_rate},
                  {"params": network.linear.parameters()}]
        given = {"parameters": groups, "steps": steps}
        return from_params(optimizer_and_schedule, self.optimizer, "finetune.optimizer", **given)


def fit(recipe: Recipe, frames: TaskFrames, training: torch.Tensor, stream: int) -> Iterator[tuple[Classifier, float]]:
    """Train a network on the frames with the row numbers `training`; yields it and the mean loss after every epoch.

    Args:
        stream: seeds the new classifier, the order of the frames and their views.

    Raises:
        UserError: the loss is not finite any more.
    """
    device = frames.grey.device
    network = recipe.network(stream).to(device)
    passes, steps = recipe.passes(len(training)), recipe.steps(len(training))
    alone = round(recipe.head_first * passes * steps)       # so many steps train the head alone
    if recipe.init == "random" and recipe.frozen_statistics == "fixed" and (recipe.trainable != "all" or alone):
        set_statistics(network.backbone, frames.grey[training], recipe.views)
    draw = generator(stream, device)
    rows_per_epoch = len(training) - (len(training) % recipe.batch_size == 1)
    optimizer, schedule = recipe.optimizer_and_schedule(network, passes * steps)
    for epoch in range(passes):
        order = training[torch.randperm(len(training), generator=draw, device=device)[:rows_per_epoch]]
        total = 0.0
        for step, batch in enumerate(order.split(recipe.batch_size), epoch * steps):
            THREADS.look()
            if step in (epoch * steps, alone):
                network.train_only("head" if step < alone else recipe.trainable)
                train_mode(network, recipe.frozen_statistics)
            set_learning_rate(optimizer, schedule(step))
            views = recipe.views.normalise(recipe.views(frames.grey[batch].float() / 255, draw))    # B x 1 x H x W
            loss = F.cross_entropy(network(views), frames.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(batch)
        mean = float(total) / rows_per_epoch
        require(math.isfinite(mean), f"the loss is {mean} after epoch {epoch}; lower finetune.optimizer.learning_rate")
        yield network, mean


@torch.no_grad()
def predict(network: Classifier, frames: TaskFrames, rows: torch.Tensor, views: Views) -> torch.Tensor:
    """Logits [n, classes] of the frames `rows`, without augmentation and with running statistics."""
    network.eval()
    return torch.cat([network(views.normalise(frames.grey[part].float() / 255)) for part in rows.split(256)])


def inner_loss(network: Classifier, frames: TaskFrames, rows: torch.Tensor, views: Views) -> float:
    """Mean cross-entropy of the frames `rows`; NaN if there are none."""
    return float(F.cross_entropy(predict(network, frames, rows, views), frames.labels[rows])) if len(rows) else math.nan
