"""What the pretraining methods have in common: the interface that stages/pretrain.py calls."""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import nn

from stages.lib.networks.backbone import Backbone
from stages.lib.params import block_of, checked, require
from stages.lib.pretraining.clip_set import Clips, ClipSet
from stages.lib.training import distributed
from stages.lib.training.contrastive_views import ContrastiveViews
from stages.lib.training.optimizer import OptimizerBlock
from stages.lib.training.semantic_views import chosen_views
from stages.lib.training.views import Views


class Common(NamedTuple):
    """The keys that every method's block has, beside the method's own keyword arguments; `keep`: which epoch's weights."""

    optimizer: OptimizerBlock
    views: block_of(ContrastiveViews)
    keep: Literal["best_held_out_loss", "last_epoch"]



def check_settings(kind: type, settings: dict, views: dict, name: str) -> None:
    """Check a method's block, named `name` in params.yaml, before any data are read.

    Args:
        kind: the method's class.
        views: the block `views`.

    Raises:
        UserError: a key or a value that does not fit; the message names it.
    """
    require(isinstance(settings, dict), f"params.yaml: {name} is {settings!r}; it must be a mapping")
    checked(Common, {key: settings[key] for key in settings if key in Common._fields}, name)
    checked(kind, own_settings(settings), name, {"backbone", "clip_set", "held_out", "views"})
    chosen_views(settings["views"], views, f"{name}.views")


def own_settings(settings: dict) -> dict:
    """The keys of a method's block that are the method's own keyword arguments."""
    return {key: value for key, value in settings.items() if key not in Common._fields}


class View(NamedTuple):
    """The image of each clip in one role, and the picked frames that it is made of."""

    grey: torch.Tensor                      # [B, 1, H, W], grey values 0…1, before normalisation
    places: tuple[int, ...]                 # of its frames among the picked ones
    shares: torch.Tensor | None = None      # mixing weights of all frames but the last, [B, places − 1]; all sum to 1
    counts: torch.Tensor | None = None      # clips whose view counts in the loss, [B] bool; None: all


class ContrastiveMethod(nn.Module):
    """Base of every `Method` in stages/methods/: a backbone, its heads, the choice of frames, and the loss.

    A method's own keyword arguments are the keys of its block in params.yaml, without `optimizer`, `views` and `keep`. A method
    that names the argument `held_out` is given the held-out clips, too. State beyond parameters and buffers goes into
    `get_extra_state`, so that a killed run can continue. `loss` is the only function that a method must have.

    Args:
        backbone: the network to pretrain; the only part that outlives pretraining.
        clip_set: the clips to train on.
        views: augmentation of frames.
    """

    def __init__(self, backbone: Backbone, clip_set: ClipSet, views: Views):
        super().__init__()
        self.backbone, self.clip_set, self.views = backbone, clip_set, views
        self.progress = 0.0     # finished fraction of the run, set by the loop

    def trained(self) -> Iterable[nn.Parameter] | list[dict]:
        """The parameters that the loop's optimiser trains, or groups of them (`optimizer_and_schedule`).

        By default all that need a gradient.
        """
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def pick(self, clips: Clips, generator: torch.Generator) -> torch.Tensor:
        """Places of the frames to take, within each clip, [B, k]. By default one at random."""
        draw = torch.rand(len(clips.count), 1, generator=generator, device=generator.device)
        return (draw * clips.count[:, None]).long()

    def augment(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator, dim: int = 0) -> torch.Tensor:
        """A view of each frame, not yet normalised: [B, k, 1, H, W], or [k, B, 1, H, W] with `dim` 1, → the same shape.

        Under torchrun `frames` belong to this rank's part of the clips; the random numbers are those of one process with all.
        """
        lead = list(frames.shape[:2])
        lead[dim] = len(clips.index)
        fan = self.clip_set.fan[clips.index].unsqueeze(1 - dim).expand(*lead, -1).flatten(0, 1)
        drawn = self.views.draw(math.prod(lead), frames.shape[-2:], generator, fan)
        drawn = {name: distributed.own(part.unflatten(0, lead), dim).flatten(0, 1) for name, part in drawn.items()}
        return self.views.apply(frames.flatten(0, 1), **drawn).unflatten(0, frames.shape[:2])

    def step_views(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> dict[str, View]:
        """The views of a step by role, from the picked frames [B, k, 1, H, W]. By default of the first and of the last frame.

        `loss` takes its views from here only, and so do the report's pictures.
        """
        anchor, positive = self.augment(torch.stack([frames[:, 0], frames[:, -1]]), clips, generator, dim=1)
        return {"anchor": View(anchor, (0,)), "positive": View(positive, (-1,))}

    def normalised(self, *views: View, dim: int = 0) -> torch.Tensor:
        """Views as input of the backbone, [views, B, 1, H, W], or [B, views, 1, H, W] with `dim` 1."""
        return self.views.normalise(torch.stack([view.grey for view in views], dim))

    def two_views(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> torch.Tensor:
        """All views of `step_views`, normalised: [B, k, 1, H, W] → [2, B, 1, H, W]."""
        return self.normalised(*self.step_views(frames, clips, generator).values())

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """The loss of a step, and further values to record.

        Args:
            frames: the picked frames, 0…1, [B, k, 1, H, W]; under torchrun of this rank's part of the clips.
            clips: the B clips of all ranks.
            generator: of the views and of everything else that is random in the loss.

        Returns:
            The loss, a scalar, and terms by name, without graph. Scalars: their means go to reports/pretrain.csv. Vectors
            [B], one value per pair: they go to reports/pairs/pairs.csv. Matrices `mined_clip` and `mined_share` [B, m]: rows
            of clips.csv that negatives were mined from (−1: none) and their shares, for the report's pictures.
        """
        raise NotImplementedError

    def before_step(
        self, frames: torch.Tensor, clips: Clips, optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> None:
        """Called before `loss` in training: by default nothing."""

    def after_step(self) -> None:
        """Called after the optimiser's step: by default nothing."""

    def curriculum(self) -> dict[str, float]:
        """Settings that change during the run, at this point of it, by name, for reports/pretrain.csv: by default none.

        With a curriculum the report also shows pictures from the middle of the run.
        """
        return {}
