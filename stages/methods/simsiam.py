"""SimSiam: each view predicts the projection of the other, which takes no gradient (Chen & He 2021, arXiv 2011.10566)."""

import torch
import torch.nn.functional as F
from torch import nn

from stages.lib.networks.backbone import Backbone
from stages.lib.networks.heads import mlp
from stages.lib.params import Count
from stages.lib.pretraining.clip_set import Clips, ClipSet
from stages.lib.pretraining.method import ContrastiveMethod
from stages.lib.training.views import Views


class Method(ContrastiveMethod):
    """A random frame of each clip, seen twice. The predictor's learning rate stays constant (Sec. 4.2, "Predictor").

    Args:
        embedding_width: D, width of the projection and of its hidden layers.
        hidden_width: of the predictor's hidden layer.
    """

    def __init__(
        self, backbone: Backbone, clip_set: ClipSet, views: Views, *, embedding_width: Count, hidden_width: Count
    ):
        super().__init__(backbone, clip_set, views)
        widths = [backbone.feature_width, embedding_width, embedding_width, embedding_width]
        self.projection_head = nn.Sequential(mlp(*widths), nn.BatchNorm1d(embedding_width, affine=False))
        self.predictor = mlp(embedding_width, hidden_width, embedding_width)

    def trained(self) -> list[dict]:
        predictor = set(self.predictor.parameters())
        rest = [parameter for parameter in super().trained() if parameter not in predictor]
        return [{"params": rest}, {"params": list(self.predictor.parameters()), "constant_rate": True}]

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """½ D(p₁, z₂) + ½ D(p₂, z₁), D the negative cosine (Eq. 1 and 4); the spread tells a collapse.

        `spread` is the mean deviation of a coordinate of z / ‖z‖ times √D: 1 spread evenly, 0 collapsed (Sec. 4.1).
        """
        views = self.two_views(frames, clips, generator)                               # 2 x B x 1 x H x W
        projection = self.projection_head(self.backbone(views))                 # 2B x D
        target = projection.detach().roll(len(clips.index), 0)               # 2B x D, of the other view
        loss = -F.cosine_similarity(self.predictor(projection), target).mean()
        return loss, {"spread": F.normalize(target).std(0).mean() * target.shape[1] ** 0.5}
