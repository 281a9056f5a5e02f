"""What the training loops share: device and precision, seeds, optimiser, learning rate, progress."""

import math
import os
from collections.abc import Callable, Iterable, Iterator

import torch
from tqdm import tqdm

from stages.lib.params import require

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def device() -> torch.device:
    """The GPU if there is one, else the CPU; the environment variable SONOPAIR_DEVICE overrides."""
    return torch.device(os.environ.get("SONOPAIR_DEVICE", "cuda" if torch.cuda.is_available() else "cpu"))


def autocast(where: torch.device) -> torch.autocast:
    """bfloat16 where the hardware computes in it (twice as fast as single precision on both), else single precision."""
    capable = torch.cuda.is_bf16_supported() if where.type == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(where.type, dtype=torch.bfloat16, enabled=capable)


def generator(seed: int, where: torch.device) -> torch.Generator:
    """A random stream of its own on the device."""
    return torch.Generator(where).manual_seed(seed)


def optimizer(
    parameters: Iterable[torch.nn.Parameter], name: str, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """An optimiser of the parameters that want a gradient.

    Args:
        name: adam | adamw | sgd (with momentum 0.9).
        weight_decay: L2 penalty; decoupled for adamw.
    """
    require(name in OPTIMIZERS, f"params.yaml: optimizer.name is {name!r}; choose from {', '.join(OPTIMIZERS)}")
    require(learning_rate > 0, f"params.yaml: learning_rate is {learning_rate}; it must be above 0")
    require(weight_decay >= 0, f"params.yaml: weight_decay is {weight_decay}; it cannot be negative")
    options = {"momentum": 0.9} if name == "sgd" else {}
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return OPTIMIZERS[name](trained, lr=learning_rate, weight_decay=weight_decay, fused=True, **options)


def cosine(learning_rate: float, constant_fraction: float, steps: int) -> Callable[[int], float]:
    """The learning rate of each step, counted from 0: constant for a fraction of the run, then half a cosine to 0.

    Source: Loshchilov & Hutter 2017, Eq. 5, one period. The last step is taken just before the rate would reach 0.
    """
    require(0 <= constant_fraction <= 1, f"params.yaml: constant_fraction is {constant_fraction}; it is a fraction, 0 to 1")
    constant = constant_fraction * steps
    return lambda step: learning_rate * (1 + math.cos(math.pi * max(0, step - constant) / max(1, steps - constant))) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give all groups of parameters the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def progress(numbers: range, total: int, what: str) -> Iterator[int]:
    """Go through `numbers` with a bar on a terminal (time left) and ten plain lines elsewhere."""
    bar = tqdm(numbers, desc=what, total=total, initial=total - len(numbers), disable=None, dynamic_ncols=True)
    for number in bar:
        if bar.disable and number % max(1, total // 10) == 0:
            print(f"{what} {number + 1} of {total}", flush=True)
        yield number
