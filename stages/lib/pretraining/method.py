"""What the pretraining methods have in common: the interface that stages/pretrain.py calls."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from stages.lib.networks.backbone import Backbone
from stages.lib.params import require
from stages.lib.pretraining.clip_set import Clips, ClipSet
from stages.lib.training import distributed
from stages.lib.training.views import Views


class View(NamedTuple):
    """What a loss sees of each clip in one role, and of which of the picked frames it is made."""

    grey: torch.Tensor                      # [B, 1, H, W], grey values 0…1: before they are normalised
    places: tuple[int, ...]                 # among the picked frames
    shares: torch.Tensor | None = None      # of a mixture: of all places but the last, which has the rest, [B, places − 1]


class ContrastiveMethod(nn.Module):
    """Base of every `Method` in stages/methods/: a backbone, its heads, which frames to take, and the loss.

    Args:
        backbone: the network to pretrain; the only part that outlives pretraining.
        clip_set: the clips to train on.
        views: augmentation of frames.

    A method's own keyword arguments are the keys of its block in params.yaml, less `optimizer`, `views` and `keep`. One that
    names a further argument `meta_set` is given the held-out clips. What it must remember beyond parameters and buffers goes
    into `get_extra_state`, so that a killed run goes on.
    """

    def __init__(self, backbone: Backbone, clip_set: ClipSet, views: Views):
        super().__init__()
        self.backbone, self.clip_set, self.views = backbone, clip_set, views
        self.progress = 0.0     # fraction of the run that is done, set by the loop

    def trained(self) -> Iterable[nn.Parameter]:
        """The parameters that the loop's optimiser trains: here all that want a gradient."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def pick(self, clips: Clips, generator: torch.Generator) -> torch.Tensor:
        """Which frames of each clip to take: places within the clip, [B, k]. Here: one, any."""
        draw = torch.rand(len(clips.count), 1, generator=generator, device=generator.device)
        return (draw * clips.count[:, None]).long()

    def augment(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator, dim: int = 0) -> torch.Tensor:
        """A view of each frame, not yet normalised: [B, k, 1, H, W], or [k, B, 1, H, W] with `dim` 1, → the same.

        Under torchrun `frames` are those of this rank's part of the clips; the draw is that of one process with all of them.
        """
        lead = list(frames.shape[:2])
        lead[dim] = len(clips.index)
        fan = self.clip_set.fan[clips.index].unsqueeze(1 - dim).expand(*lead, -1).flatten(0, 1)
        drawn = self.views.draw(math.prod(lead), frames.shape[-2:], generator, fan)
        drawn = {name: distributed.own(part.unflatten(0, lead), dim).flatten(0, 1) for name, part in drawn.items()}
        return self.views.apply(frames.flatten(0, 1), **drawn).unflatten(0, frames.shape[:2])

    def seen(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> dict[str, View]:
        """What `loss` makes of the picked frames [B, k, 1, H, W], by role. Here: a view of the first and one of the last.

        The loss takes its views from here and nowhere else, and the report's pictures come from here, too.
        """
        anchor, positive = self.augment(torch.stack([frames[:, 0], frames[:, -1]]), clips, generator, dim=1)
        return {"anchor": View(anchor, (0,)), "positive": View(positive, (-1,))}

    def normalised(self, *views: View, dim: int = 0) -> torch.Tensor:
        """Views as the backbone wants them, [views, B, 1, H, W], or [B, views, 1, H, W] with `dim` 1."""
        return self.views.normalise(torch.stack([view.grey for view in views], dim))

    def two_views(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> torch.Tensor:
        """Both views that `seen` makes of each clip, normalised: [B, k, 1, H, W] → [2, B, 1, H, W]."""
        return self.normalised(*self.seen(frames, clips, generator).values())

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """The loss of a step and what else there is to log.

        Args:
            frames: the picked frames, 0…1, [B, k, 1, H, W]; under torchrun those of this rank's part of the clips.
            clips: what is known of the B clips, of all ranks.
            generator: of the views and all else that the loss draws.

        Returns:
            The loss (a scalar) and, by name, terms without a graph: scalars, whose means go to reports/pretrain.csv, and
            vectors [B], a value for each pair, which go to reports/pairs/pairs.csv.
        """
        raise NotImplementedError

    def before_step(
        self, frames: torch.Tensor, clips: Clips, optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> None:
        """What happens before a step: nothing here."""

    def after_step(self) -> None:
        """What happens after a step: nothing here."""

    def counts(self, view: View, clips: Clips) -> torch.Tensor:
        """Which of these views count in the loss, [B]: here all. Asked for the report's pictures only."""
        return torch.ones_like(clips.index, dtype=torch.bool)

    def mined(self, seen: dict[str, View], clips: Clips) -> tuple[torch.Tensor, torch.Tensor]:
        """Clips that the loss chose for negatives, rows of clips.csv (−1: none), and their shares, [B, m]: here m is 0.

        Asked for the report's pictures only, of what `seen` gave.
        """
        return clips.index.new_empty(len(clips.index), 0), torch.empty(len(clips.index), 0)

    def curriculum(self) -> dict[str, float]:
        """What the method asks for at this point of the run, by name, for reports/pretrain.csv: nothing here."""
        return {}

    def require_fraction(self, **values: float) -> None:
        """Raise UserError for a value of the method's block that is not within 0 … 1."""
        name = type(self).__module__.rpartition(".")[2]
        for key, value in values.items():
            require(0 <= value <= 1, f"params.yaml: methods.{name}.{key} is {value}; choose 0 to 1")

    def require_positive(self, **values: float) -> None:
        """Raise UserError for a value of the method's block that is not above 0."""
        name = type(self).__module__.rpartition(".")[2]
        for key, value in values.items():
            require(value > 0, f"params.yaml: methods.{name}.{key} is {value}; it must be above 0")
