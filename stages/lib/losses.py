"""Contrastive losses on unit-length embeddings, shared by two or more methods."""

import torch
import torch.nn.functional as F


def nt_xent(
    left: torch.Tensor, right: torch.Tensor, temperature: float, pair_weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Normalised temperature-scaled cross-entropy (Eq. 1 of Chen et al. 2020, arXiv 2002.05709).

    Each of the 2B embeddings is told from the 2B − 2 that are neither itself nor its partner. All embeddings equal gives
    log(2B − 1); a single pair has no negative and gives 0.

    Args:
        left, right: embeddings of the two views of B clips, [B, D], unit length.
        temperature: τ, above 0.
        pair_weight: [B], at least 0, or None for the plain mean. The two terms of pair i count pair_weight[i] / Σ / 2.

    Returns:
        A scalar.
    """
    embedding = torch.cat([left, right])                                    # 2B x D
    logits = embedding @ embedding.T / temperature                          # 2B x 2B
    logits.fill_diagonal_(-torch.inf)                                       # never its own negative
    partner = torch.arange(len(embedding), device=logits.device).roll(len(left))
    if pair_weight is None:
        return F.cross_entropy(logits, partner)
    terms = F.cross_entropy(logits, partner, reduction="none")              # 2B
    return (terms * pair_weight.repeat(2)).sum() / (2 * pair_weight.sum())
