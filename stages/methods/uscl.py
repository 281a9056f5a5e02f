"""USCL: pairs mixed from three frames of a clip, and labels where there are some (Chen et al. 2021, arXiv 2011.13066)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from stages.lib.networks.backbone import Backbone
from stages.lib.networks.heads import projection_head, unit
from stages.lib.params import Count, Fraction, NotNegative, Positive
from stages.lib.pretraining.clip_set import Clips, ClipSet, choose
from stages.lib.pretraining.losses import nt_xent
from stages.lib.pretraining.method import ContrastiveMethod, View
from stages.lib.training import distributed
from stages.lib.training.views import Views


class Method(ContrastiveMethod):
    """Sample pair generation, NT-Xent on the pairs and cross-entropy over the labelled clips.

    Args:
        temperature: τ of NT-Xent.
        embedding_width: D, width of the projection.
        mixing_alpha: α of λ ~ Beta(α, α), the weight of a view's own frame against the anchor.
        label_weight: of the cross-entropy; 0 leaves the labels unused.
        label_fraction: part of each class's training clips whose label is used.
        classifier_on: feature (the paper's figure) or projection (the authors' code).
    """

    def __init__(
        self,
        backbone: Backbone,
        clip_set: ClipSet,
        views: Views,
        *,
        temperature: Positive,
        embedding_width: Count,
        mixing_alpha: Positive,
        label_weight: NotNegative,
        label_fraction: Fraction,
        classifier_on: Literal["feature", "projection"],
    ):
        super().__init__(backbone, clip_set, views)
        widths = {"feature": backbone.feature_width, "projection": embedding_width}
        self.temperature, self.mixing_alpha = temperature, mixing_alpha
        self.label_weight, self.classifier_on = label_weight, classifier_on
        self.projection_head = projection_head(backbone.feature_width, backbone.feature_width, embedding_width)
        self.classifier = nn.Linear(widths[classifier_on], max(1, len(clip_set.classes)))
        self.register_buffer("label_hidden", clip_set.without_labels(label_fraction))

    def pick(self, clips: Clips, generator: torch.Generator) -> torch.Tensor:
        """x1, x2 (the anchor), x3: three distinct frames in random order, [B, 3]; fewer are repeated in short clips.

        In a clip of two frames x1 and x3 differ; `mixing` then leaves the anchor out.
        """
        first, third, anchor = choose(clips.number >= 0, 3, generator)[0].unbind(1)
        last = clips.count - 1
        return torch.stack([first, torch.minimum(anchor, last), torch.where(last > 0, third, first)], 1)

    def mixing(self, clips: Clips, generator: torch.Generator) -> torch.Tensor:
        """λ of each clip, [B, 1, 1, 1]: Beta(α, α) as a ratio of gamma variables; 1 for clips of fewer than three frames."""
        alpha = torch.full((2, len(clips.count)), self.mixing_alpha, device=clips.count.device)
        own, anchor = torch._standard_gamma(alpha, generator=generator).clamp_min(1e-30)       # both may underflow to 0
        return torch.where(clips.count >= 3, own / (own + anchor), 1)[:, None, None, None]

    def step_views(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> dict[str, View]:
        """Sample pair generation: left, λ x1 + (1 − λ) x2, and right, λ x3 + (1 − λ) x2, of frames augmented on their own.

        Args:
            frames: x1, x2 (the anchor), x3 of each clip, [B, 3, 1, H, W].
        """
        first, anchor, third = self.augment(frames, clips, generator).unbind(1)                 # B x 1 x H x W each
        mixing = distributed.own(self.mixing(clips, generator)).to(frames.dtype)
        mixed = {"left": View(torch.lerp(anchor, first, mixing), (0, 1), mixing.flatten(1)),
                 "right": View(torch.lerp(anchor, third, mixing), (2, 1), mixing.flatten(1))}
        return {"first": View(first, (0,)), "anchor": View(anchor, (1,)), "third": View(third, (2,))} | mixed

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """NT-Xent + label_weight · (CE_i + CE_j); a batch without labels contributes 0 to the cross-entropy.

        In evaluation the pair is x1 and x3 without mixing, as in the authors' code: the epoch to keep is chosen by them.
        """
        views = self.step_views(frames, clips, generator)
        pair = ("left", "right") if self.training else ("first", "third")
        feature = self.backbone(self.normalised(*(views[role] for role in pair)))       # 2B x F
        projection = self.projection_head(feature)                                      # 2B x D
        contrastive = nt_xent(*unit(projection).chunk(2), self.temperature)
        logits = self.classifier(feature if self.classifier_on == "feature" else projection)
        labels = clips.label.masked_fill(self.label_hidden[clips.index], -1).repeat(2)  # 2B, −1 where unlabelled
        total = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
        classification = 2 * total / (labels >= 0).sum().clamp(min=1)                   # CE_i + CE_j, each a mean
        loss = contrastive + self.label_weight * classification
        return loss, {"contrastive": contrastive.detach(), "classification": classification.detach()}
