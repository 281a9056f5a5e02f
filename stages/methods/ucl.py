"""UCL: hard negatives from the anchor's own clip and from other clips (Basu et al. 2022, arXiv 2207.13148)."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import nn

from stages.lib.networks.backbone import Backbone
from stages.lib.networks.heads import projection_head, unit
from stages.lib.params import Count, Fraction, FractionSpan, Positive, require
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
        temperature: Positive,
        embedding_width: Count,
        key_momentum: Fraction,
        queue_size: Count,
        cross_mined: Count,
        intra_negatives: Count,
        anchor_window: FractionSpan,
        positive_range: Annotated[int, Ge(0)],
        intra_from: Fraction,
        harder_from: Fraction,
        far_window: FractionSpan,
        near_window: FractionSpan,
    ):
        super().__init__(backbone, clip_set, views)
        block = "params.yaml: methods.ucl"
        require(cross_mined <= queue_size, f"{block}.cross_mined is {cross_mined}; choose 1 to queue_size, {queue_size}")
        require(intra_from <= harder_from, f"{block}.intra_from is {intra_from}; choose at most harder_from, {harder_from}")
        for name, window in {"anchor": anchor_window, "far": far_window, "near": near_window}.items():
            require(window[0] < window[1], f"{block}.{name}_window is {window}; its two ends must differ")
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

    def step_views(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> dict[str, View]:
        """Anchor, positive and the negatives of the clip, each augmented; a missing negative does not count."""
        views = self.augment(frames, clips, generator).unbind(1)                                # B x 1 x H x W each
        present = self.present(clips).unbind(1)
        far = {f"negative {n}": View(view, (n + 1,), counts=present[n - 1]) for n, view in enumerate(views[2:], 1)}
        return {"anchor": View(views[0], (0,)), "positive": View(views[1], (1,))} | far

    def present(self, clips: Clips) -> torch.Tensor:
        """Picked negatives that are no stand-ins for missing ones, [B, picked − 2]."""
        return (clips.number[:, 2:] - clips.number[:, :1]).abs() > self.positive_range

    def nearest(self, query: torch.Tensor, clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Places in the queue of the keys of other clips most similar to the query, and α = softmax(q·zⱼ / τ): [B, m]."""
        similarity = (query @ self.queue.embedding.T).masked_fill(self.queue.own(clip), -torch.inf)     # B x K
        nearest = similarity.topk(self.cross_mined)
        return nearest.indices, (nearest.values / self.temperature).softmax(1)

    def cross_negative(self, query: torch.Tensor, clip: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """ẑ = Σ αⱼ zⱼ over the nearest keys of other clips, [B, D]; the clips of these keys and α, [B, m]."""
        places, share = self.nearest(query, clip)
        mined = {"mined_clip": self.queue.clip[places], "mined_share": share.detach()}
        return torch.einsum("bm,bmd->bd", share, self.queue.embedding[places]), mined

    def curriculum(self) -> dict[str, float]:
        """The distance window of the clip's own negatives; NaN as long as there are none."""
        low, high = self.window() if self.progress >= self.intra_from else (math.nan, math.nan)
        return {"negative_low": low, "negative_high": high}

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """InfoNCE of anchor and positive against the own clip's negatives and ẑ; one pass through each encoder."""
        anchor, near, *far = self.step_views(frames, clips, generator).values()
        positive = unit(self.key_encoder(self.normalised(near)))                                # B x D
        queried = self.normalised(anchor, *far, dim=1)                              # B x (1 + negatives) x 1 x H x W
        queries = unit(self.projection_head(self.backbone(queried, dim=0))).unflatten(0, (len(clips.index), -1))
        query, intra = queries[:, 0], queries[:, 1:]
        cross, mined = self.cross_negative(query, clips.index)
        distance, absent = (clips.number - clips.number[:, :1]).abs(), ~self.present(clips)     # B x picked
        left_out = F.pad(absent, (0, 1))                                                        # ẑ always counts
        self.keys = positive, clips.index
        loss = info_nce(query, positive, torch.cat([intra, cross[:, None]], 1), self.temperature, left_out)
        negatives = distance[:, 2:].float().masked_fill(absent, torch.nan)
        return loss, mined | {"frame_distance": distance[:, 1], "negative_frame_distance": negatives.nanmean(1)}

    def after_step(self) -> None:
        """The key encoder follows, the keys enter the queue."""
        self.key_encoder.follow(nn.Sequential(self.backbone, self.projection_head), self.key_momentum)
        self.queue.push(*self.keys)
