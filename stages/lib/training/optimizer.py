"""Optimiser and learning rate schedule of the training loops."""

import math
from collections.abc import Callable, Iterable

import torch

from stages.lib.params import require

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def descent(
    parameters: Iterable[torch.nn.Parameter],
    steps: int,
    name: str,
    learning_rate: float,
    weight_decay: float,
    warmup_fraction: float,
    constant_fraction: float,
    gradient_norm: float | None,
) -> tuple[torch.optim.Optimizer, Callable[[int], float]]:
    """An optimiser of the parameters that want a gradient, and the learning rate of each step, counted from 0.

    The rate rises from a tenth, 0.1 + 0.9 exp(−5 (1 − t)²) over the warm-up (as in Meta-USCL's code), is constant for a
    fraction of the run, then follows half a cosine that would reach 0 just after the last step (Loshchilov & Hutter 2017,
    Eq. 5, one period).

    Args:
        steps: of the whole run.
        name: adam | adamw | sgd (with momentum 0.9).
        weight_decay: L2 penalty; decoupled for adamw.
        warmup_fraction: of the steps, over which the rate rises.
        constant_fraction: of the steps, between the warm-up and the cosine.
        gradient_norm: longest gradient, all parameters together; a longer one is shortened before the step. None: any.
    """
    require(name in OPTIMIZERS, f"params.yaml: optimizer.name is {name!r}; choose from {', '.join(OPTIMIZERS)}")
    require(learning_rate > 0, f"params.yaml: optimizer.learning_rate is {learning_rate}; it must be above 0")
    require(weight_decay >= 0, f"params.yaml: optimizer.weight_decay is {weight_decay}; it cannot be negative")
    fractions = (warmup_fraction, constant_fraction)
    require(min(fractions) >= 0 and sum(fractions) <= 1, f"params.yaml: optimizer.warmup_fraction and .constant_fraction are "
            f"{warmup_fraction} and {constant_fraction}; choose 0 to 1, together too")
    require(gradient_norm is None or gradient_norm > 0, f"params.yaml: optimizer.gradient_norm is {gradient_norm}; it must be "
            "above 0, or null")
    options = {"momentum": 0.9} if name == "sgd" else {}
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    optimizer = OPTIMIZERS[name](trained, lr=learning_rate, weight_decay=weight_decay, fused=True, **options)
    if gradient_norm is not None:
        optimizer.register_step_pre_hook(lambda *_: torch.nn.utils.clip_grad_norm_(trained, gradient_norm) and None)
    warmup = warmup_fraction * steps
    constant = warmup + constant_fraction * steps

    def rate(step: int) -> float:
        if step < warmup:
            return learning_rate * (0.1 + 0.9 * math.exp(-5 * (1 - step / warmup) ** 2))
        return learning_rate * (1 + math.cos(math.pi * max(0, step - constant) / max(1, steps - constant))) / 2

    return optimizer, rate


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give all groups of parameters the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
