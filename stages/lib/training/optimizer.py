"""Optimiser and learning rate schedule of the training loops."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, ValidationInfo

from stages.lib.params import Fraction, NotNegative, Positive, block_of, require

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def optimizer_and_schedule(
    parameters: Iterable[torch.nn.Parameter | dict],
    steps: int,
    name: Literal["adam", "adamw", "sgd"],
    learning_rate: Positive,
    weight_decay: NotNegative,
    warmup_fraction: Fraction,
    constant_fraction: Fraction,
    gradient_norm: Positive | None,
) -> tuple[torch.optim.Optimizer, Callable[[int], float]]:
    """The optimiser of the parameters that need a gradient, and the learning rate of each step, counted from 0.

    The rate rises from a tenth, 0.1 + 0.9 exp(−5 (1 − t)²) over the warm-up (as in Meta-USCL's code). It stays constant for a
    fraction of the run. Then it follows half a cosine, which would reach 0 just after the last step (Loshchilov & Hutter
    2017, Eq. 5, one period).

    Args:
        parameters: or groups of them, as torch's optimisers take them. A group with `constant_rate: True` keeps the learning
            rate `learning_rate` throughout. A group with `rate_factor` has so many times the learning rate of the others.
        steps: number of steps of the whole run.
        name: sgd has momentum 0.9.
        weight_decay: L2 penalty; decoupled for adamw.
        warmup_fraction: part of the run in which the rate rises.
        constant_fraction: part of the run between the warm-up and the cosine.
        gradient_norm: greatest norm of the gradient of all parameters together; a longer gradient is scaled down to it before
            the step. None: no limit.
    """
    options = {"momentum": 0.9} if name == "sgd" else {}
    given = list(parameters)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    groups = [group | {"params": [part for part in group["params"] if part.requires_grad]} for group in groups]
    trained = [parameter for group in groups for parameter in group["params"]]
    optimizer = OPTIMIZERS[name](groups, lr=learning_rate, weight_decay=weight_decay, fused=True, **options)
    if gradient_norm is not None:
        optimizer.register_step_pre_hook(partial(_scale_down, trained, gradient_norm))
    warmup = warmup_fraction * steps
    constant = warmup + constant_fraction * steps

    def rate(step: int) -> float:
        if step < warmup:
            return learning_rate * (0.1 + 0.9 * math.exp(-5 * (1 - step / warmup) ** 2))
        return learning_rate * (1 + math.cos(math.pi * max(0, step - constant) / max(1, steps - constant))) / 2

    return optimizer, rate


def _within_the_run(block: dict, info: ValidationInfo) -> dict:
    """The block, unless its warm-up and constant part are together longer than the run."""
    name, parts = f"{info.context}.{info.field_name}", [block["warmup_fraction"], block["constant_fraction"]]
    require(sum(parts) <= 1, f"params.yaml: {name}.warmup_fraction is {parts[0]} and {name}.constant_fraction {parts[1]}; "
            "together they must be 1 or less")
    return block


OptimizerBlock = Annotated[block_of(optimizer_and_schedule, "parameters", "steps"), AfterValidator(_within_the_run)]


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all parameter groups but those with `constant_rate`, times their `rate_factor`."""
    for group in optimizer.param_groups:
        if not group.get("constant_rate"):
            group["lr"] = learning_rate * group.get("rate_factor", 1.0)


def _scale_down(parameters: list[torch.nn.Parameter], gradient_norm: float, *_) -> None:
    """Scale the gradient down to the norm. Nothing is read from the device, and nothing returned: torch would take it for
    the arguments of the step.
    """
    torch.nn.utils.clip_grad_norm_(parameters, gradient_norm)
