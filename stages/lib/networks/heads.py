"""Projection and prediction heads of the pretraining methods."""

import torch
import torch.nn.functional as F
import torchvision
from torch import nn


def projection_head(feature_width: int, hidden_width: int, embedding_width: int) -> nn.Sequential:
    """Two linear layers with a ReLU between them (Chen et al. 2020, Sec. 2.1): [B, F] → [B, D], not yet unit length."""
    return nn.Sequential(
        nn.Linear(feature_width, hidden_width), nn.ReLU(inplace=True), nn.Linear(hidden_width, embedding_width)
    )


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between them, the last one plain: [B, widths[0]] → [B, widths[-1]]."""
    return torchvision.ops.MLP(widths[0], list(widths[1:]), norm_layer=nn.BatchNorm1d, inplace=True)


def unit(embedding: torch.Tensor) -> torch.Tensor:
    """Embeddings [B, D] scaled to unit length."""
    return F.normalize(embedding, dim=1)
