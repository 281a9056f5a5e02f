"""Where a network looks: Grad-CAM (Selvaraju et al. 2017, Eq. 1 and 2)."""

import torch
import torch.nn.functional as F
from torch import nn

from stages.lib.params import require


def grad_cam(network: nn.Module, block: nn.Module, frames: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """What speaks for a class, place by place: ReLU of the block's channels, each weighted by its mean gradient.

    Args:
        network: frames → logits [B, classes], in evaluation mode.
        block: a part of it that gives feature maps [B, C, h, w], usually the last convolutional one.
        frames: [B, 1, H, W], normalised.
        classes: the class that each map is of, [B].

    Returns:
        [B, H, W], 0 and above, in the unit of the logits per place (bilinear between the block's places).

    Raises:
        UserError: the block gives no feature maps; those of Swin, [B, h, w, C], are none either.
    """
    of_maps, kept = any(isinstance(part, (nn.Conv2d, nn.BatchNorm2d)) for part in block.modules()), []

    def keep(_, __, output):
        require(of_maps and output.ndim == 4, "Grad-CAM needs feature maps: it is for convolutional networks")
        kept.append(output.detach().requires_grad_())                       # B x C x h x w
        return kept[0].clone()          # what comes after may write into it

    with block.register_forward_hook(keep), torch.enable_grad():
        logits = network(frames)                                            # B x classes
        (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), kept[0])
    weights = gradient.float().mean((2, 3), keepdim=True)                   # B x C x 1 x 1, Eq. 1
    maps = (weights * kept[0].detach().float()).sum(1, keepdim=True).relu()     # B x 1 x h x w, Eq. 2
    return F.interpolate(maps, frames.shape[2:], mode="bilinear").squeeze(1)
