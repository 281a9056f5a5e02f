"""Running statistics of batch norm, set from frames: without them the features of random weights are judged unfairly."""

from collections.abc import Iterable

import torch
from torch import nn


@torch.no_grad()
def calibrate(network: nn.Module, batches: Iterable[torch.Tensor]) -> nn.Module:
    """Set the running statistics of every batch norm to the means over some batches; the weights stay.

    A network with its initial weights has running means of 0 and variances of 1, whatever its layers put out. In evaluation its
    features then are those of a network without batch norm. A network that has been trained needs no calibration.

    Args:
        network: a backbone, or anything that takes the batches.
        batches: normalised frames, [B, 1, H, W] each, of training data only.

    Returns:
        The network, in evaluation mode.
    """
    norms = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [part.momentum for part in norms]
    network.eval()
    for part in norms:
        part.reset_running_stats()
        part.momentum = None            # cumulative mean over the batches
        part.train()
    for batch in batches:
        network(batch)
    for part, momentum in zip(norms, momenta, strict=True):
        part.momentum = momentum
    return network.eval()
