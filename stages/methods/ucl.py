"""UCL: hard negatives from the anchor's own clip and from other clips (Basu et al. 2022, arXiv 2207.13148)."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from stages.lib.networks.backbone import Backbone
from stages.lib.networks.heads import projection_head, unit
from stages.lib.params import Count, Fraction, FractionSpan, Positive, require
from stages.lib.pretraining.clip_set import Clips, ClipSet, choose, choose_repeatedly
from stages.lib.pretraining.losses import info_nce
from stages.lib.pretraining.method import ContrastiveMethod, View
from stages.lib.pretraining.momentum import KeyEncoder, Queue
from stages.lib.training.views import Views


class Method(ContrastiveMethod):
    """The positive is a near frame of the clip. Negatives are distant frames of it, and frames of other clips like the anchor.

    Distances are in kept frames; n is the number of kept frames of the clip. The bank holds the latest negatives of all
    clips, also those of the current step, encoded by the query encoder, as in the authors' code. Unlike there, entries of
    the anchor's own clip are no cross-video negatives: the paper says other videos. The window shrinks as in the paper; in
    the code it collapses to 0.

    Args:
        temperature: τ.
        embedding_width: D.
        key_momentum: m of the key encoder.
        bank_size: K, negatives kept from the latest steps.
        cross_mined: m, entries of the bank that the cross-video negative is mixed from.
        intra_negatives: negatives from the own clip, drawn with replacement.
        anchor_window: where in the clip the anchor lies, as fractions of n.
        positive_range: greatest distance of the positive from the anchor; negatives are further away.
        intra_from: progress (fraction of the run) from which negatives of the own clip count.
        harder_from: progress from which their distance shrinks, with a cosine until the end.
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
        bank_size: Count,
        cross_mined: Count,
        intra_negatives: Count,
        anchor_window: FractionSpan,
        positive_range: Count,
        intra_from: Fraction,
        harder_from: Fraction,
        far_window: FractionSpan,
        near_window: FractionSpan,
    ):
        super().__init__(backbone, clip_set, views)
        block = "params.yaml: methods.ucl"
        require(cross_mined <= bank_size, f"{block}.cross_mined is {cross_mined}; choose 1 to bank_size, {bank_size}")
        require(bank_size > intra_negatives, f"{block}.bank_size is {bank_size}; choose more than intra_negatives, "
                f"{intra_negatives}, as one clip alone fills so many places")
        require(intra_from <= harder_from, f"{block}.intra_from is {intra_from}; choose at most harder_from, {harder_from}")
        for name, window in {"anchor": anchor_window, "far": far_window, "near": near_window}.items():
            require(window[0] < window[1], f"{block}.{name}_window is {window}; its two ends must differ")
        self.temperature, self.key_momentum, self.cross_mined = temperature, key_momentum, cross_mined
        self.intra_negatives, self.anchor_window, self.positive_range = intra_negatives, anchor_window, positive_range
        self.intra_from, self.harder_from = intra_from, harder_from
        self.far_window, self.near_window = far_window, near_window
        self.projection_head = projection_head(backbone.feature_width, backbone.feature_width, embedding_width)
        self.key_encoder = KeyEncoder(nn.Sequential(backbone, self.projection_head))
        self.bank = Queue(bank_size, embedding_width)
        self.warn(clip_set.clips.count.tolist())

    def warn(self, counts: list[int]) -> None:
        """Say so if more than a tenth of the clips, of so many kept frames each, can lack negatives of their own."""
        short = [count for count in counts if not self.serves(count)]
        if len(short) > len(counts) / 10:
            print(f"warning: {len(short)} of {len(counts)} training clips have too few kept frames for methods.ucl."
                  f"positive_range, {self.positive_range}: some of their anchors have no negative in their own clip. Lower "
                  "positive_range, keep more frames (extract_frames.frame_rate_hz) or leave short clips out", flush=True)

    def serves(self, count: int) -> bool:
        """Whether every possible anchor of a clip of `count` frames has a frame beyond the positive range."""
        low, high = (edge * count for edge in self.anchor_window)
        anchors = [place for place in range(count) if low <= place < high] or range(count)
        return all(max(place, count - 1 - place) > self.positive_range for place in anchors)

    def window(self) -> tuple[float, float]:
        """Least and greatest distance of a negative of the own clip, as fractions of n, at this point of the curriculum."""
        remaining = max(1e-9, 1 - self.harder_from)         # 0 if they never shrink
        harder = max(0.0, self.progress - self.harder_from) / remaining
        easy = (1 + math.cos(math.pi * harder)) / 2
        low, high = (near + (far - near) * easy for far, near in zip(self.far_window, self.near_window, strict=True))
        return low, high

    def pick(self, clips: Clips, generator: torch.Generator) -> torch.Tensor:
        """Anchor, positive and negatives of the own clip, [B, 2 + intra_negatives].

        The window of the negatives always has room for two frames beyond the positive range, as in the authors' code. If a
        clip has no frame in the window, any frame beyond the positive range is taken. The anchor's own place stands for a
        missing frame, and `loss` leaves it out. A short clip without a frame in the anchor's window gives any frame as anchor.
        """
        place = torch.arange(clips.number.shape[1], device=clips.count.device)                  # longest
        count = clips.count[:, None]
        real = place < count                                                                    # B x longest
        low, high = (edge * count for edge in self.anchor_window)
        inside = real & (place >= low) & (place < high)
        anchor = choose(torch.where(inside.any(1, keepdim=True), inside, real), 1, generator)[0]        # B x 1
        distance = (place - anchor).abs()                                                       # B x longest
        positive, found = choose(real & (distance > 0) & (distance <= self.positive_range), 1, generator)
        positive = torch.where(found, positive, anchor)
        low, high = (edge * count for edge in self.window())
        low, high = low.clamp(min=self.positive_range + 1), high.clamp(min=self.positive_range + 3)
        beyond = real & (distance > self.positive_range)
        far = beyond & (distance >= low) & (distance < high)
        far = torch.where(far.any(1, keepdim=True), far, beyond)
        negatives, found = choose_repeatedly(far, self.intra_negatives, generator)
        return torch.cat([anchor, positive, torch.where(found, negatives, anchor)], 1)

    def step_views(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> dict[str, View]:
        """Anchor, positive and the negatives of the clip, each augmented."""
        views = self.augment(frames, clips, generator).unbind(1)                                # B x 1 x H x W each
        other, counts = self.differs(clips), self.counted(clips)                                # B x picked − 1, B x picked − 2
        far = {f"negative {n}": View(view, (n + 1,), counts=counts[:, n - 1]) for n, view in enumerate(views[2:], 1)}
        return {"anchor": View(views[0], (0,)), "positive": View(views[1], (1,), counts=other[:, 0])} | far

    def differs(self, clips: Clips) -> torch.Tensor:
        """Picked frames after the anchor that are not the anchor's own, which stands for a missing one: [B, picked − 1]."""
        return clips.number[:, 1:] != clips.number[:, :1]

    def counted(self, clips: Clips) -> torch.Tensor:
        """Negatives of the own clip that count in the loss: none before the curriculum asks for them, [B, picked − 2]."""
        return self.differs(clips)[:, 1:] & (self.progress >= self.intra_from)

    def cross_negative(
        self, query: torch.Tensor, clip: torch.Tensor, bank: torch.Tensor, owner: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """ẑ = Σ αⱼ zⱼ over the entries of other clips most similar to the query, α = softmax(q·zⱼ / τ): [B, D].

        Args:
            query: [B, D], of clips [B].
            bank: [K, D], of clips `owner` [K].

        Returns:
            ẑ; the clips of its entries and α, [B, m], by name.
        """
        similarity = (query @ bank.T).masked_fill(clip[:, None] == owner, -torch.inf)           # B x K
        nearest = similarity.topk(self.cross_mined)
        share = (nearest.values / self.temperature).softmax(1)                                  # B x m
        mined = {"mined_clip": owner[nearest.indices], "mined_share": share.detach()}
        return torch.einsum("bm,bmd->bd", share, bank[nearest.indices]), mined

    def curriculum(self) -> dict[str, float]:
        """The distance window of the clip's own negatives; NaN as long as they do not count."""
        low, high = self.window() if self.progress >= self.intra_from else (math.nan, math.nan)
        return {"negative_low": low, "negative_high": high}

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """InfoNCE of anchor and positive against the own clip's negatives and ẑ; one pass through each encoder.

        Clips of a single frame have no positive and do not count.
        """
        anchor, near, *far = self.step_views(frames, clips, generator).values()
        positive = unit(self.key_encoder(self.normalised(near)))                                # B x D
        queried = self.normalised(anchor, *far, dim=1)                              # B x (1 + negatives) x 1 x H x W
        queries = unit(self.projection_head(self.backbone(queried, dim=0))).unflatten(0, (len(clips.index), -1))
        query, intra = queries[:, 0], queries[:, 1:]
        self.latest = intra.detach().flatten(0, 1), clips.index.repeat_interleave(self.intra_negatives)
        cross, mined = self.cross_negative(query, clips.index, *self.bank.after(*self.latest))
        counted = self.counted(clips)
        left_out = F.pad(~counted, (0, 1))                                                      # ẑ always counts
        negatives = torch.cat([intra, cross[:, None]], 1)
        loss = info_nce(query, positive, negatives, self.temperature, left_out, self.differs(clips)[:, 0])
        distance = (clips.number[:, 1:] - clips.number[:, :1]).abs()                            # B x picked − 1
        far = distance[:, 1:].float().masked_fill(~counted, torch.nan).nanmean(1)
        return loss, mined | {"frame_distance": distance[:, 0], "negative_frame_distance": far}

    def after_step(self) -> None:
        """The key encoder follows, the negatives enter the bank."""
        self.key_encoder.follow(nn.Sequential(self.backbone, self.projection_head), self.key_momentum)
        self.bank.push(*self.latest)
