"""The gradient of a meta loss with respect to pair weights, through one virtual step of SGD (Chen et al. 2022, arXiv
2212.04097).

The virtual step is θ' = θ − η ∇ Σ wᵢ ℓᵢ(θ), with normalised weights w. It is linear in w, so a meta loss L has the gradient
∂L(θ')/∂wᵢ = −η ⟨∇L(θ'), ∇ℓᵢ(θ)⟩. All these inner products are one forward-mode pass of ℓ in the direction ∇L(θ'). No graph of
second order is needed.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call

from stages.lib.networks.forward_mode import Recorded, tangents
from stages.lib.training.device import set_random_state


class Step(NamedTuple):
    """The forward pass of a training step."""

    views: torch.Tensor                 # [2, B, 1, H, W], normalised
    terms: torch.Tensor                 # ℓ of each pair, [B], with its graph
    recorded: Recorded                  # outputs of the convolutions of the pass
    random_state: list[torch.Tensor]    # of torch's default streams before the pass, so that dropout can repeat its masks


def meta_gradient(
    method: nn.Module, step: Step, share: torch.Tensor, meta_views: Callable[[], torch.Tensor], optimizer: torch.optim.SGD
) -> tuple[torch.Tensor, torch.Tensor]:
    """∂L(θ')/∂share and L(θ'), for L the unweighted loss of views of the meta set.

    Parameters, buffers and the default random streams of the method stay as they are.

    Args:
        method: called with views, it returns features and embeddings; `method.terms` gives ℓ of each pair from embeddings, and
            `method.encoder_parameters()` the parameters that the optimiser trains.
        step: its graph is kept.
        share: normalised pair weights, [B].
        meta_views: draws two views of a batch of the meta set, [2, M, 1, H, W].
        optimizer: the main one.

    Returns:
        The gradient, [B], and the meta loss, a scalar without graph.
    """
    views = step.views
    with torch.random.fork_rng([views.device] if views.is_cuda else []):
        after = virtual_step(method.encoder_parameters(), (share.detach() * step.terms).sum(), optimizer)
        meta_loss = method.terms(embeddings(method, after, meta_views())).mean()
        direction = torch.autograd.grad(meta_loss, list(after.values()))
        set_random_state(step.random_state, views.device)
        with tangents(step.recorded):
            parts = zip(method.encoder_parameters().items(), direction, strict=True)
            dual = {name: forward_ad.make_dual(value.detach(), tangent) for (name, value), tangent in parts}
            slope = forward_ad.unpack_dual(method.terms(embeddings(method, dual, views))).tangent       # B
    return -optimizer.param_groups[0]["lr"] * slope, meta_loss.detach()


def virtual_step(
    parameters: dict[str, nn.Parameter], loss: torch.Tensor, optimizer: torch.optim.SGD
) -> dict[str, torch.Tensor]:
    """θ' = θ − η (μ · buffer + ∇loss + decay · θ): the parameters after a step of the optimiser that is not taken."""
    group = optimizer.param_groups[0]
    values = [value.detach() for value in parameters.values()]
    gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
    direction = torch._foreach_add(gradients, values, alpha=group["weight_decay"])
    if optimizer.state:
        buffers = [optimizer.state[value]["momentum_buffer"] for value in parameters.values()]
        torch._foreach_add_(direction, buffers, alpha=group["momentum"])
    after = torch._foreach_add(values, direction, alpha=-group["lr"])
    return {name: value.requires_grad_() for name, value in zip(parameters, after, strict=True)}


def embeddings(method: nn.Module, parameters: dict[str, torch.Tensor], views: torch.Tensor) -> torch.Tensor:
    """Embeddings of views under other parameters; the buffers of the method stay as they are."""
    buffers = {name: value.clone() for name, value in method.named_buffers()}
    return functional_call(method, parameters | buffers, (views,))[1]
