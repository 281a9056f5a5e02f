"""Supervised pretraining: cross-entropy on the pooled labels of US-4, a row of USCL's table (Chen et al. 2021,
arXiv 2011.13066)."""

import torch
import torch.nn.functional as F
from torch import nn

from stages.lib.networks.backbone import Backbone
from stages.lib.params import require
from stages.lib.pretraining.clip_set import Clips, ClipSet
from stages.lib.pretraining.method import ContrastiveMethod, View
from stages.lib.training.views import Views


class Method(ContrastiveMethod):
    """Cross-entropy of one view of a random frame of each clip; unlabelled clips are left out."""

    def __init__(self, backbone: Backbone, clip_set: ClipSet, views: Views):
        super().__init__(backbone, clip_set, views)
        require(bool((clip_set.clips.label >= 0).any()), "params.yaml: pretrain.method is supervised, but no "
                "training clip has a pooled class; extend assemble_us4.classes or take sources with labels")
        self.classifier = nn.Linear(backbone.feature_width, len(clip_set.classes))

    def step_views(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> dict[str, View]:
        """The one view of each clip."""
        return {"view": View(self.augment(frames.transpose(0, 1), clips, generator, dim=1)[0], (0,))}

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """The mean cross-entropy over the labelled clips of the batch, 0 if there is none.

        On held-out clips, too: with many unlabelled ones that mean depends on how they fall into batches.
        """
        views = self.normalised(*self.step_views(frames, clips, generator).values())                  # 1 x B x 1 x H x W
        logits = self.classifier(self.backbone(views))                  # B x classes
        total = F.cross_entropy(logits, clips.label, ignore_index=-1, reduction="sum")
        return total / (clips.label >= 0).sum().clamp(min=1), {}
