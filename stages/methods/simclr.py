"""SimCLR: two views of a frame attract, all other frames of the batch repel (Chen et al. 2020, arXiv 2002.05709)."""

import torch

from stages.lib.networks.backbone import Backbone
from stages.lib.networks.heads import projection_head, unit
from stages.lib.params import Count, Positive
from stages.lib.pretraining.clip_set import Clips, ClipSet
from stages.lib.pretraining.losses import nt_xent
from stages.lib.pretraining.method import ContrastiveMethod
from stages.lib.training.views import Views


class Method(ContrastiveMethod):
    """A random frame of each clip, seen twice; NT-Xent on the projections.

    Args:
        temperature: τ of NT-Xent, above 0.
        embedding_width: D, width of the projection.
    """

    def __init__(
        self, backbone: Backbone, clip_set: ClipSet, views: Views, *, temperature: Positive, embedding_width: Count
    ):
        super().__init__(backbone, clip_set, views)
        self.temperature = temperature
        self.projection_head = projection_head(backbone.feature_width, backbone.feature_width, embedding_width)

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """NT-Xent of two views of one frame (Eq. 1); both views go through the network in one pass."""
        views = self.two_views(frames, clips, generator)                               # 2 x B x 1 x H x W
        left, right = unit(self.projection_head(self.backbone(views))).chunk(2)         # B x D each
        return nt_xent(left, right, self.temperature), {}
