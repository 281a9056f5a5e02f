"""VICReg: two views agree; embedding coordinates vary and do not covary (Bardes et al. 2022, arXiv 2105.04906)."""

import torch

from stages.lib.networks.backbone import Backbone
from stages.lib.networks.heads import mlp
from stages.lib.params import Count, Positive
from stages.lib.pretraining.clip_set import Clips, ClipSet
from stages.lib.pretraining.losses import vicreg
from stages.lib.pretraining.method import ContrastiveMethod
from stages.lib.training.views import Views


class Method(ContrastiveMethod):
    """A random frame of each clip, seen twice.

    Args:
        embedding_width: D, width of the projection and of its hidden layers.
        invariance_weight, variance_weight, covariance_weight: λ, μ, ν of the three terms.
    """

    def __init__(
        self,
        backbone: Backbone,
        clip_set: ClipSet,
        views: Views,
        *,
        embedding_width: Count,
        invariance_weight: Positive,
        variance_weight: Positive,
        covariance_weight: Positive,
    ):
        super().__init__(backbone, clip_set, views)
        self.weights = invariance_weight, variance_weight, covariance_weight
        self.projection_head = mlp(backbone.feature_width, embedding_width, embedding_width, embedding_width)

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """Eq. 6 on the projections of two views of one frame."""
        left, right = self.projection_head(self.backbone(self.two_views(frames, clips, generator))).chunk(2)
        return vicreg(left, right, *self.weights), {}
