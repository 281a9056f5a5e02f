"""IVPP: positives are two frames of a clip that are close in time; closer pairs count more (VanBerlo et al. 2024,
arXiv 2403.07715).
"""

from typing import Literal, NamedTuple

import torch

from stages.lib.networks.backbone import Backbone
from stages.lib.networks.heads import mlp, unit
from stages.lib.params import Count, Positive, block_of, from_params
from stages.lib.pretraining.clip_set import Clips, ClipSet, choose
from stages.lib.pretraining.losses import barlow_twins, nt_xent_terms, vicreg
from stages.lib.pretraining.method import ContrastiveMethod
from stages.lib.training.views import Views


class Simclr(NamedTuple):
    """NT-Xent: δ in seconds, whether near pairs count more, τ, D."""

    max_gap_s: Positive
    weighted: bool
    temperature: Positive
    embedding_width: Count


class Vicreg(NamedTuple):
    """VICReg: δ in seconds, whether near pairs count more in the invariance, D, λ, μ, ν."""

    max_gap_s: Positive
    weighted: bool
    embedding_width: Count
    invariance_weight: Positive
    variance_weight: Positive
    covariance_weight: Positive


class BarlowTwins(NamedTuple):
    """Barlow Twins: δ in seconds, D, λ; no weights, the correlation belongs to no pair."""

    max_gap_s: Positive
    embedding_width: Count
    off_diagonal_weight: Positive


OBJECTIVES = {"simclr": Simclr, "vicreg": Vicreg, "barlow_twins": BarlowTwins}


class Method(ContrastiveMethod):
    """Intra-video positive pairs under one of three objectives, each with its own settings.

    Weights as in the authors' code: the mean of w · ℓ, not divided by the mean weight. Their head: one hidden layer with batch
    norm. Unlike there, a pair is never the same frame twice: of frames kept at a few per second that would be one pair in
    nine, not one in seventy-five.

    Args:
        objective: simclr | vicreg | barlow_twins; the name of the argument below that is used.
        simclr, vicreg, barlow_twins: keys and values of `Simclr`, `Vicreg` and `BarlowTwins`.
    """

    def __init__(
        self,
        backbone: Backbone,
        clip_set: ClipSet,
        views: Views,
        *,
        objective: Literal["simclr", "vicreg", "barlow_twins"],
        simclr: block_of(Simclr),
        vicreg: block_of(Vicreg),
        barlow_twins: block_of(BarlowTwins),
    ):
        super().__init__(backbone, clip_set, views)
        settings = {"simclr": simclr, "vicreg": vicreg, "barlow_twins": barlow_twins}[objective]
        self.settings = from_params(OBJECTIVES[objective], settings, f"methods.ivpp.{objective}")
        width, feature = self.settings.embedding_width, backbone.feature_width
        self.projection_head = mlp(feature, width, width)
        self.warn(clip_set.clips, f"methods.ivpp.{objective}.max_gap_s")

    def warn(self, clips: Clips, key: str) -> None:
        """Say so if more than a tenth of the clips have no two kept frames at most D apart."""
        gap = clips.number.diff(dim=1)                                                          # B x longest − 1
        near = (clips.number[:, 1:] >= 0) & (gap <= self.max_gap(clips)[:, None])
        without = int((~near.any(1)).sum())
        if without > len(near) / 10:
            print(f"warning: {without} of {len(near)} training clips have no two kept frames within {key}, "
                  f"{self.settings.max_gap_s:g}, so both views of their pairs come from one frame. Raise max_gap_s, keep more "
                  "frames (extract_frames.frame_rate_hz) or leave stills out", flush=True)

    def max_gap(self, clips: Clips) -> torch.Tensor:
        """D = int(δ · fps), in frames of the recording, [B]; 0 where the frame rate is unknown."""
        return (self.settings.max_gap_s * clips.fps.nan_to_num(0) + 1e-4).long()     # rounding must not cost a frame

    def pick(self, clips: Clips, generator: torch.Generator) -> torch.Tensor:
        """A frame, and another one uniform among those at most D frames of the recording away, [B, 2].

        A clip without such a frame in the store gives the same frame twice.
        """
        first = super().pick(clips, generator)                                                  # B x 1
        gap = (clips.number - clips.number.gather(1, first)).abs()                              # B x longest
        near = (clips.number >= 0) & (gap > 0) & (gap <= self.max_gap(clips)[:, None])
        second, found = choose(near, 1, generator)
        return torch.cat([first, torch.where(found, second, first)], 1)

    def pair_weight(self, clips: Clips) -> torch.Tensor:
        """w = (D − |Δ| + 1) / (D + 1) of each pair, [B], from 1 / (D + 1) to 1."""
        most = self.max_gap(clips)
        return (most - clips.number.diff(dim=1).abs()[:, 0] + 1) / (most + 1)

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """The objective's loss between the two frames of each pair, each augmented."""
        left, right = self.projection_head(self.backbone(self.two_views(frames, clips, generator))).chunk(2)   # B x D each
        weight = self.pair_weight(clips).to(left.dtype)
        match self.settings:
            case Simclr(_, weighted, temperature, _):
                terms = nt_xent_terms(unit(left), unit(right), temperature)
                loss = (terms * weight).mean() if weighted else terms.mean()
            case Vicreg(_, weighted):
                loss = vicreg(left, right, *self.settings[3:], weight if weighted else None)
            case BarlowTwins(_, width, off_diagonal_weight):
                weighted = False
                loss = barlow_twins(left, right, off_diagonal_weight) / width
        distance = clips.number.diff(dim=1).abs()[:, 0]
        return loss, {"frame_distance": distance, "weight": weight if weighted else torch.ones_like(weight)}
