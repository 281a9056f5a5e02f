"""Barlow Twins: each embedding coordinate of two views correlates only with itself (Zbontar et al. 2021, arXiv 2103.03230)."""

import torch

from stages.lib.networks.backbone import Backbone
from stages.lib.networks.heads import mlp
from stages.lib.params import Count, Positive
from stages.lib.pretraining.clip_set import Clips, ClipSet
from stages.lib.pretraining.losses import barlow_twins
from stages.lib.pretraining.method import ContrastiveMethod
from stages.lib.training.views import Views


class Method(ContrastiveMethod):
    """A random frame of each clip, seen twice.

    Args:
        embedding_width: D, width of the projection and of its hidden layers.
        off_diagonal_weight: λ of the correlations between different coordinates.
    """

    def __init__(
        self, backbone: Backbone, clip_set: ClipSet, views: Views, *, embedding_width: Count, off_diagonal_weight: Positive
    ):
        super().__init__(backbone, clip_set, views)
        self.off_diagonal_weight = off_diagonal_weight
        self.projection_head = mlp(backbone.feature_width, embedding_width, embedding_width, embedding_width)

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """Eq. 1 on the projections of two views of one frame, divided by D.

        The division (a scale, not another loss) keeps the loss of the same size whatever the width.
        """
        projection = self.projection_head(self.backbone(self.two_views(frames, clips, generator)))     # 2B x D
        left, right = projection.chunk(2)
        return barlow_twins(left, right, self.off_diagonal_weight) / projection.shape[1], {}
