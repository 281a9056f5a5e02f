"""CycleContrast: from a frame to its soft neighbour among other clips and back to its own clip (Wu & Wang 2021,
arXiv 2105.06463).
"""

import torch
from torch import nn

from stages.lib.networks.backbone import Backbone
from stages.lib.networks.heads import projection_head, unit
from stages.lib.params import Count, Fraction, Positive, require
from stages.lib.pretraining.clip_set import Clips, ClipSet, choose
from stages.lib.pretraining.losses import info_nce
from stages.lib.pretraining.method import ContrastiveMethod
from stages.lib.pretraining.momentum import KeyEncoder, Queue
from stages.lib.training.views import Views


class Method(ContrastiveMethod):
    """Two frames of a clip; one head for the loss within the clip, another for the cycle through other clips.

    Keys of the anchor's own clip are no neighbours and no negatives of the cycle.

    Args:
        temperature: τ of both losses.
        neighbour_temperature: τ of the soft neighbour.
        embedding_width: D.
        key_momentum: m of the key encoder.
        queue_size: K, keys kept from earlier steps.
        support_fraction: of the queue, drawn anew in every step, among which the neighbour is sought; the rest are negatives.
        cycle_weight: of the cycle loss beside the loss within the clip.
    """

    def __init__(
        self,
        backbone: Backbone,
        clip_set: ClipSet,
        views: Views,
        *,
        temperature: Positive,
        neighbour_temperature: Positive,
        embedding_width: Count,
        key_momentum: Fraction,
        queue_size: Count,
        support_fraction: Fraction,
        cycle_weight: Positive,
    ):
        super().__init__(backbone, clip_set, views)
        self.support = round(support_fraction * queue_size)
        require(0 < self.support < queue_size, f"params.yaml: methods.cycle_contrast.support_fraction is {support_fraction}; "
                "at least one key of the queue must be inside, and one outside")
        self.temperature, self.neighbour_temperature = temperature, neighbour_temperature
        self.key_momentum, self.cycle_weight = key_momentum, cycle_weight
        width = backbone.feature_width
        self.heads = nn.ModuleList(projection_head(width, width, embedding_width) for _ in range(2))
        self.key_backbone, self.key_heads = KeyEncoder(backbone), KeyEncoder(self.heads)
        self.intra_queue, self.cycle_queue = (Queue(queue_size, embedding_width) for _ in range(2))

    def pick(self, clips: Clips, generator: torch.Generator) -> torch.Tensor:
        """Two distinct frames, [B, 2]; the same one twice in a clip of one frame."""
        places, found = choose(clips.number >= 0, 2, generator)
        return torch.where(found, places, places[:, :1])

    def cycle(self, query: torch.Tensor, back: torch.Tensor, clip: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The way there, n = Σ softmax(q·kⱼ / τₙ) kⱼ over the support, and back: InfoNCE of n with `back`, a frame of the clip.

        Args:
            query: of the anchors, [B, D].
            back: keys of another frame of each clip, [B, D].
            clip: [B].
        """
        order = torch.randperm(len(self.cycle_queue.clip), generator=generator, device=generator.device)
        support, rest = order[: self.support], order[self.support :]
        keys, own = self.cycle_queue.embedding, self.cycle_queue.own(clip)                      # K x D, B x K
        logits = query @ keys[support].T / self.neighbour_temperature
        share = logits.masked_fill(own[:, support], torch.finfo(logits.dtype).min).softmax(1)   # B x support
        return info_nce(unit(share @ keys[support]), back, keys[rest], self.temperature, own[:, rest])

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """InfoNCE between two frames of a clip against the queue, and the cycle through other clips."""
        left, right = self.two_views(frames, clips, generator).chunk(2)                # 1 x B x 1 x H x W each
        feature, key_feature = self.backbone(left), self.key_backbone(right)    # B x F
        intra_query, cycle_query = (unit(head(feature)) for head in self.heads)
        intra_key, cycle_key = (unit(head(key_feature)).detach() for head in self.key_heads.encoder)
        intra = info_nce(intra_query, intra_key, self.intra_queue.embedding.clone(), self.temperature)
        cycle = self.cycle(cycle_query, cycle_key, clips.index, generator)
        self.keys = intra_key, cycle_key, clips.index
        terms = {"intra": intra.detach(), "cycle": cycle.detach(), "frame_distance": clips.number.diff(dim=1).abs()[:, 0]}
        return intra + self.cycle_weight * cycle, terms

    def after_step(self) -> None:
        """The key encoder follows, the keys enter their queues."""
        intra_key, cycle_key, clip = self.keys
        self.key_backbone.follow(self.backbone, self.key_momentum)
        self.key_heads.follow(self.heads, self.key_momentum)
        self.intra_queue.push(intra_key, clip)
        self.cycle_queue.push(cycle_key, clip)
