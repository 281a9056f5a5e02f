"""MoCo v2: a view matches the key of its frame's other view among queued keys of earlier frames (Chen et al. 2020,
arXiv 2003.04297).
"""

import torch
from torch import nn

from stages.lib.networks.backbone import Backbone
from stages.lib.networks.heads import projection_head, unit
from stages.lib.params import Count, Fraction, Positive
from stages.lib.pretraining.clip_set import Clips, ClipSet
from stages.lib.pretraining.losses import info_nce
from stages.lib.pretraining.method import ContrastiveMethod
from stages.lib.pretraining.momentum import KeyEncoder, Queue
from stages.lib.training.views import Views


class Method(ContrastiveMethod):
    """A random frame of each clip, seen twice; InfoNCE of the query encoder against the key encoder and the queue.

    The queue may hold other frames of the anchor's own clip, as published. On one device there is no batch to shuffle
    between the two encoders' batch norms: query and key differ in their statistics because each encoder sees its own views.

    Args:
        temperature: τ of InfoNCE.
        embedding_width: D, width of the projection.
        key_momentum: m of the key encoder, 0 to 1.
        queue_size: K, negatives kept from earlier steps.
    """

    def __init__(
        self,
        backbone: Backbone,
        clip_set: ClipSet,
        views: Views,
        *,
        temperature: Positive,
        embedding_width: Count,
        key_momentum: Fraction,
        queue_size: Count,
    ):
        super().__init__(backbone, clip_set, views)
        self.temperature, self.key_momentum = temperature, key_momentum
        self.projection_head = projection_head(backbone.feature_width, backbone.feature_width, embedding_width)
        self.key_encoder = KeyEncoder(nn.Sequential(backbone, self.projection_head))
        self.queue = Queue(queue_size, embedding_width)

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """InfoNCE with the queue as negatives (Eq. 1 of He et al. 2020)."""
        left, right = self.two_views(frames, clips, generator).chunk(2)                # 1 x B x 1 x H x W each
        query = unit(self.projection_head(self.backbone(left)))                 # B x D
        self.keys = unit(self.key_encoder(right)), clips.index
        return info_nce(query, self.keys[0], self.queue.embedding.clone(), self.temperature), {}

    def after_step(self) -> None:
        """The key encoder follows, the keys enter the queue."""
        self.key_encoder.follow(nn.Sequential(self.backbone, self.projection_head), self.key_momentum)
        self.queue.push(*self.keys)
