"""BYOL: each view predicts the slow encoder's projection of the other; no negatives (Grill et al. 2020, arXiv 2006.07733)."""

import math

import torch
from torch import nn

from stages.lib.networks.backbone import Backbone
from stages.lib.networks.heads import mlp, unit
from stages.lib.params import Count, Fraction
from stages.lib.pretraining.clip_set import Clips, ClipSet
from stages.lib.pretraining.method import ContrastiveMethod
from stages.lib.pretraining.momentum import KeyEncoder
from stages.lib.training.views import Views


class Method(ContrastiveMethod):
    """A random frame of each clip, seen twice.

    Args:
        embedding_width: D, width of projection and prediction.
        hidden_width: of the hidden layer of projection head and predictor.
        key_momentum: m of the key (target) encoder at the start; it rises to 1 with a cosine.
    """

    def __init__(
        self,
        backbone: Backbone,
        clip_set: ClipSet,
        views: Views,
        *,
        embedding_width: Count,
        hidden_width: Count,
        key_momentum: Fraction,
    ):
        super().__init__(backbone, clip_set, views)
        self.key_momentum = key_momentum
        self.projection_head = mlp(backbone.feature_width, hidden_width, embedding_width)
        self.predictor = mlp(embedding_width, hidden_width, embedding_width)
        self.key_encoder = KeyEncoder(nn.Sequential(backbone, self.projection_head))

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """‖q(z) − z'‖² of unit vectors, 2 − 2 cos, both ways round (Eq. 2 and below); each encoder sees both views at once."""
        views = self.two_views(frames, clips, generator)                               # 2 x B x 1 x H x W
        prediction = unit(self.predictor(self.projection_head(self.backbone(views))))           # 2B x D
        target = unit(self.key_encoder(views)).roll(len(clips.index), 0)             # 2B x D, of the other view
        return 2 * (2 - 2 * (prediction * target).sum(1)).mean(), {}

    def after_step(self) -> None:
        """The key encoder follows with m = 1 − (1 − m₀) (cos(π · progress) + 1) / 2 (Sec. 3.3)."""
        momentum = 1 - (1 - self.key_momentum) * (math.cos(math.pi * self.progress) + 1) / 2
        self.key_encoder.follow(nn.Sequential(self.backbone, self.projection_head), momentum)
