"""What the pretraining methods have in common: the interface that stages/pretrain.py calls."""

import torch
from torch import nn

from stages.lib.clip_set import Clips, ClipSet
from stages.lib.networks import Backbone
from stages.lib.views import Views


class ContrastiveMethod(nn.Module):
    """Base of every `Method` in stages/methods/: a backbone, its heads, which frames to take, and the loss.

    Args:
        backbone: the network to pretrain; the only part that outlives pretraining.
        clip_set: the clips to train on.
        views: augmentation of frames.

    A method's own keyword arguments are the keys of its block in params.yaml, less `optimizer` and `views`.
    """

    def __init__(self, backbone: Backbone, clip_set: ClipSet, views: Views):
        super().__init__()
        self.backbone, self.clip_set, self.views = backbone, clip_set, views

    def pick(self, clips: Clips, generator: torch.Generator) -> torch.Tensor:
        """Which frames of each clip to take: numbers within the clip, [B, k]. Here: one, any."""
        draw = torch.rand(len(clips.count), 1, generator=generator, device=generator.device)
        return (draw * clips.count[:, None]).long()

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """The loss of a step and its named parts.

        Args:
            frames: the picked frames, 0…1, [B, k, 1, H, W].
            clips: what is known of the B clips.
            generator: of the views and all else that the loss draws.

        Returns:
            The loss (a scalar) and scalars to log, by name.
        """
        raise NotImplementedError

    def before_step(self, frames: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        """What happens before a step: nothing here."""

    def after_step(self) -> None:
        """What happens after a step: nothing here."""
