"""Contrastive losses on unit-length embeddings, shared by two or more methods."""

import torch
import torch.nn.functional as F


def nt_xent(
    left: torch.Tensor, right: torch.Tensor, temperature: float, pair_weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Normalised temperature-scaled cross-entropy (Eq. 1 of Chen et al. 2020, arXiv 2002.05709).

    Each of the 2B embeddings has its partner as positive and the 2B − 2 others as negatives. Equal embeddings give
    log(2B − 1); a single pair has no negatives and gives 0.

    Args:
        left, right: embeddings of the two views of B clips, [B, D], unit length.
        temperature: τ, above 0.
        pair_weight: [B], 0 or more; the two terms of pair i each have the weight pair_weight[i] / Σ / 2. None: the plain mean.

    Returns:
        A scalar.
    """
    terms = nt_xent_terms(left, right, temperature)
    return terms.mean() if pair_weight is None else (terms * pair_weight).sum() / pair_weight.sum()


def nt_xent_terms(left: torch.Tensor, right: torch.Tensor, temperature: float) -> torch.Tensor:
    """The mean of the two terms of each pair in `nt_xent`, [B]."""
    embedding = torch.cat([left, right])                                    # 2B x D
    logits = embedding @ embedding.T / temperature                          # 2B x 2B
    itself = torch.eye(len(embedding), dtype=torch.bool, device=logits.device)
    partner = torch.arange(len(embedding), device=logits.device).roll(len(left))
    terms = F.cross_entropy(logits.masked_fill(itself, -torch.inf), partner, reduction="none")      # 2B
    return terms.unflatten(0, (2, -1)).mean(0)


def info_nce(
    query: torch.Tensor,
    positive: torch.Tensor,
    negatives: torch.Tensor,
    temperature: float,
    left_out: torch.Tensor | None = None,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:
    """−log exp(q·k⁺/τ) / (exp(q·k⁺/τ) + Σⱼ exp(q·kⱼ⁻/τ)), the mean over queries (Eq. 1 of He et al. 2020, arXiv 1911.05722).

    Args:
        query, positive: [B, D].
        negatives: of all queries, [K, D], or of each, [B, K, D].
        temperature: τ, above 0.
        left_out: negatives to leave out, [B, K] bool, or None.
        counts: queries that count, [B] bool, or None for all; 0 if none does.
    """
    against = torch.einsum("bd,kd->bk" if negatives.dim() == 2 else "bd,bkd->bk", query, negatives)
    if left_out is not None:
        against = against.masked_fill(left_out, -torch.inf)
    logits = torch.cat([(query * positive).sum(1, keepdim=True), against], 1) / temperature     # B x (1 + K)
    terms = F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device), reduction="none")
    return terms.mean() if counts is None else (terms * counts).sum() / counts.sum().clamp(min=1)


def barlow_twins(left: torch.Tensor, right: torch.Tensor, off_diagonal_weight: float) -> torch.Tensor:
    """Distance of the cross-correlation of two views from the identity (Eq. 1 and 2 of Zbontar et al. 2021, arXiv 2103.03230).

    Columns are standardised over the batch by its biased deviation, as batch norm does in the authors' code.

    Args:
        left, right: projections of the two views, [B, D], of any length; B of 2 or more.
        off_diagonal_weight: λ.
    """
    left, right = (F.batch_norm(view, None, None, training=True) for view in (left, right))
    correlation = left.T @ right / len(left)                                # D x D
    on_diagonal = (correlation.diagonal() - 1).square().sum()
    off_diagonal = correlation.square().sum() - correlation.diagonal().square().sum()
    return on_diagonal + off_diagonal_weight * off_diagonal


def vicreg(
    left: torch.Tensor,
    right: torch.Tensor,
    invariance_weight: float,
    variance_weight: float,
    covariance_weight: float,
    pair_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Variance, invariance and covariance (Eq. 1 to 6 of Bardes et al. 2022, arXiv 2105.04906).

    As in the authors' code the variance term is a mean over the two views (Eq. 6 has their sum) and the invariance a mean over
    coordinates (Eq. 5 has their sum).

    Args:
        left, right: projections of the two views, [B, D], of any length; B of 2 or more.
        invariance_weight, variance_weight, covariance_weight: λ, μ, ν.
        pair_weight: of the invariance of each pair (VanBerlo et al. 2024), [B], or None for 1.
    """
    distance = (left - right).square().mean(1)                              # B
    invariance = (distance if pair_weight is None else distance * pair_weight).mean()
    variance, covariance = 0.0, 0.0
    for view in (left, right):
        view = view - view.mean(0)
        variance = variance + F.relu(1 - (view.var(0) + 1e-4).sqrt()).mean() / 2
        spread = view.T @ view / (len(view) - 1)                            # D x D
        covariance = covariance + (spread.square().sum() - spread.diagonal().square().sum()) / view.shape[1]
    return invariance_weight * invariance + variance_weight * variance + covariance_weight * covariance
