"""Momentum encoder and queue: keys of a slow copy of the trained network, kept from earlier steps."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import nn


class KeyEncoder(nn.Module):
    """A copy of an encoder that gets no gradient and moves towards it (Eq. 2 of He et al. 2020, arXiv 1911.05722)."""

    def __init__(self, query_encoder: nn.Module):
        super().__init__()
        self.encoder = deepcopy(query_encoder).requires_grad_(False)

    @torch.no_grad()
    def forward(self, views: torch.Tensor) -> torch.Tensor:
        return self.encoder(views)

    @torch.no_grad()
    def follow(self, query_encoder: nn.Module, momentum: float) -> None:
        """θₖ ← m θₖ + (1 − m) θ_q; the copy keeps its own running statistics of batch norm."""
        torch._foreach_lerp_(list(self.encoder.parameters()), list(query_encoder.parameters()), 1 - momentum)


class Queue(nn.Module):
    """The last `size` keys and their clips; at first random directions of no clip (−1).

    Args:
        size: K; it may be smaller than a batch.
        width: D.
    """

    def __init__(self, size: int, width: int):
        super().__init__()
        self.register_buffer("embedding", F.normalize(torch.randn(size, width), dim=1))         # K x D
        self.register_buffer("clip", torch.full((size,), -1))                                   # K
        self.register_buffer("next", torch.zeros((), dtype=torch.long))

    def push(self, embedding: torch.Tensor, clip: torch.Tensor) -> None:
        """Overwrite the oldest keys by keys [B, D] of clips [B]; of more than K keep the last K."""
        taken = self._write(self.embedding, self.clip, embedding, clip)
        self.next.copy_((self.next + taken) % len(self.clip))

    def after(self, embedding: torch.Tensor, clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys [K, D] and clips [K] as they would be after `push`; the queue stays as it is."""
        keys, clips = self.embedding.clone(), self.clip.clone()
        self._write(keys, clips, embedding, clip)
        return keys, clips

    def _write(self, keys: torch.Tensor, clips: torch.Tensor, embedding: torch.Tensor, clip: torch.Tensor) -> int:
        embedding, clip = embedding[-len(clips) :], clip[-len(clips) :]
        places = (self.next + torch.arange(len(clip), device=clip.device)) % len(clips)
        keys[places] = embedding.to(keys.dtype)
        clips[places] = clip
        return len(clip)

    def own(self, clip: torch.Tensor) -> torch.Tensor:
        """Keys that come from the clip itself, [B, K] bool."""
        return clip[:, None] == self.clip
