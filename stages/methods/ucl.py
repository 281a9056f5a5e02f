"""UCL: hard negatives from the anchor's own clip and from other clips (Basu et al. 2022, arXiv 2207.13148)."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from stages.lib.networks.backbone import Backbone
from stages.lib.networks.heads import projection_head, unit
from stages.lib.params import require
from stages.lib.pretraining.clip_set import Clips, ClipSet, choose
from stages.lib.pretraining.losses import info_nce
from stages.lib.pretraining.method import ContrastiveMethod, View
from stages.lib.pretraining.momentum import KeyEncoder, Queue
from stages.lib.training.views import Views


class Method(ContrastiveMethod):
    """Anchor and positive are near in a clip; distant frames of it and keys of others most like the anchor are negatives.

    Distances are in frames of the recording, n is its length from the first kept frame to the last. Unlike the authors' queue,
    ours never offers the anchor's own clip as a cross-video negative: the paper says other videos.

    Args:
        temperature: τ.
        embedding_width: D.
        key_momentum: m of the key encoder.
        queue_size: K, keys kept from earlier steps.
        cross_mined: m, keys of the queue that the cross-video negative is mixed from.
        intra_negatives: frames of the own clip that serve as negatives.
        anchor_window: where in the clip the anchor lies, as fractions of n.
        positive_range: greatest distance of the positive from the anchor.
        intra_from: progress (fraction of the run) at which negatives of the own clip come in.
        harder_from: progress at which their distance begins to shrink, with a cosine until the end.
        far_window, near_window: least and greatest distance at first and at the end, as fractions of n.
    """

    def __init__(
        self,
        backbone: Backbone,
        clip_set: ClipSet,
        views: Views,
        *,
        temperature: float,
        embedding_width: int,
        key_momentum: float,
        queue_size: int,
        cross_mined: int,
        intra_negatives: int,
        anchor_window: list,
        positive_range: int,
        intra_from: float,
        harder_from: float,
        far_window: list,
        near_window: list,
    ):
        super().__init__(backbone, clip_set, views)
        self.require_positive(temperature=temperature, embedding_width=embedding_width, queue_size=queue_size)
        self.require_positive(intra_negatives=intra_negatives, cross_mined=cross_mined)
        self.require_fraction(key_momentum=key_momentum)
        block = "params.yaml: methods.ucl"
        require(cross_mined <= queue_size, f"{block}.cross_mined is {cross_mined}; choose 1 to queue_size, {queue_size}")
        require(positive_range >= 0, f"{block}.positive_range is {positive_range}; it cannot be negative")
        require(0 <= intra_from <= harder_from <= 1, f"{block}: 0 <= intra_from <= harder_from <= 1 does not hold")
        for name, window in {"anchor": anchor_window, "far": far_window, "near": near_window}.items():
            numbers = len(window) == 2 and all(isinstance(edge, (int, float)) for edge in window)
            ordered = numbers and 0 <= window[0] < window[1] <= 1
            require(ordered, f"{block}.{name}_window is {window}; it needs two fractions of the clip, the smaller first")
        self.temperature, self.key_momentum, self.cross_mined = temperature, key_momentum, cross_mined
        self.intra_negatives, self.anchor_window, self.positive_range = intra_negatives, anchor_window, positive_range
        self.intra_from, self.harder_from = intra_from, harder_from
        self.far_window, self.near_window = far_window, near_window
        self.projection_head = projection_head(backbone.feature_width, backbone.feature_width, embedding_width)
        self.key_encoder = KeyEncoder(nn.Sequential(backbone, self.projection_head))
        self.queue = Queue(queue_size, embedding_width)

    def window(self) -> tuple[float, float]:
        """Least and greatest distance of a negative of the own clip, as fractions of n, at this point of the curriculum."""
        harder = max(0.0, self.progress - self.harder_from) / max(1e-9, 1 - self.harder_from)
        easy = (1 + math.cos(math.pi * harder)) / 2
        low, high = (near + (far - near) * easy for far, near in zip(self.far_window, self.near_window, strict=True))
        return low, high

    def pick(self, clips: Clips, generator: torch.Generator) -> torch.Tensor:
        """Anchor, positive and, once the curriculum asks for them, negatives of the own clip, [B, 2 + intra_negatives].

        A short clip without a frame in the anchor's window gives any frame; a missing negative is the anchor's own place,
        which `loss` leaves out.
        """
        real = clips.number >= 0                                                                # B x longest
        place = clips.number - clips.number[:, :1]
        length = place.amax(1, keepdim=True) + 1                                                # B x 1, n
        low, high = (edge * length for edge in self.anchor_window)
        inside = real & (place >= low) & (place < high)
        anchor = choose(torch.where(inside.any(1, keepdim=True), inside, real), 1, generator)[0]        # B x 1
        distance = (clips.number - clips.number.gather(1, anchor)).abs()                        # B x longest
        positive = choose(real & (distance <= self.positive_range), 1, generator)[0]
        if self.progress < self.intra_from:
            return torch.cat([anchor, positive], 1)
        low, high = (edge * length for edge in self.window())
        far = real & (distance >= low) & (distance < high) & (distance > self.positive_range)
        negatives, found = choose(far, self.intra_negatives, generator)
        return torch.cat([anchor, positive, torch.where(found, negatives, anchor)], 1)

    def seen(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> dict[str, View]:
        """Anchor, positive and the own clip's negatives, also those that are missing, each augmented."""
        views = self.augment(frames, clips, generator).unbind(1)                                # B x 1 x H x W each
        roles = ["anchor", "positive", *(f"negative {number}" for number in range(1, len(views) - 1))]
        return {role: View(view, (place,)) for place, (role, view) in enumerate(zip(roles, views, strict=True))}

    def counts(self, view: View, clips: Clips) -> torch.Tensor:
        place = view.places[0]
        distance = (clips.number[:, place] - clips.number[:, 0]).abs()
        return super().counts(view, clips) if place < 2 else distance > self.positive_range

    def nearest(self, query: torch.Tensor, clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Places in the queue of the keys of other clips most similar to the query, and α = softmax(q·zⱼ / τ): [B, m]."""
        similarity = (query @ self.queue.embedding.T).masked_fill(self.queue.own(clip), -torch.inf)     # B x K
        nearest = similarity.topk(self.cross_mined)
        return nearest.indices, (nearest.values / self.temperature).softmax(1)

    def cross_negative(self, query: torch.Tensor, clip: torch.Tensor) -> torch.Tensor:
        """ẑ = Σ αⱼ zⱼ over the nearest keys of other clips: [B, D]."""
        places, share = self.nearest(query, clip)
        return torch.einsum("bm,bmd->bd", share, self.queue.embedding[places])

    def mined(self, seen: dict[str, View], clips: Clips) -> tuple[torch.Tensor, torch.Tensor]:
        query = unit(self.projection_head(self.backbone(self.normalised(seen["anchor"]))))
        places, share = self.nearest(query, clips.index)
        return self.queue.clip[places], share

    def curriculum(self) -> dict[str, float]:
        """The window of the own clip's negatives, empty before they come in."""
        low, high = self.window() if self.progress >= self.intra_from else (math.nan, math.nan)
        return {"negative_low": low, "negative_high": high}

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """InfoNCE of anchor and positive against the own clip's negatives and ẑ; one pass through each encoder."""
        anchor, near, *far = self.seen(frames, clips, generator).values()
        positive = unit(self.key_encoder(self.normalised(near)))                                # B x D
        queried = self.normalised(anchor, *far, dim=1)                              # B x (1 + negatives) x 1 x H x W
        queries = unit(self.projection_head(self.backbone(queried, dim=0))).unflatten(0, (len(clips.index), -1))
        query, intra = queries[:, 0], queries[:, 1:]
        cross = self.cross_negative(query, clips.index)
        distance = (clips.number - clips.number[:, :1]).abs()                                   # B x picked
        absent = distance[:, 2:] <= self.positive_range
        left_out = F.pad(absent, (0, 1))                                                        # ẑ always counts
        self.keys = positive, clips.index
        loss = info_nce(query, positive, torch.cat([intra, cross[:, None]], 1), self.temperature, left_out)
        negatives = distance[:, 2:].float().masked_fill(absent, torch.nan)
        return loss, {"frame_distance": distance[:, 1], "negative_frame_distance": negatives.nanmean(1)}

    def after_step(self) -> None:
        """The key encoder follows, the keys enter the queue."""
        self.key_encoder.follow(nn.Sequential(self.backbone, self.projection_head), self.key_momentum)
        self.queue.push(*self.keys)
