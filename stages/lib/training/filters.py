"""Image filters of a batch in which every frame has its own strength."""

import math

import torch
import torch.nn.functional as F


def gaussian_blur(frames: torch.Tensor, sigma: torch.Tensor, most: float) -> torch.Tensor:
    """Each frame [B, 1, H, W] blurred with its own sigma [B] in px (0: not at all), none above `most`."""
    reach = min(math.ceil(3 * most), *(side - 1 for side in frames.shape[-2:]))
    offset = torch.arange(-reach, reach + 1, dtype=frames.dtype, device=frames.device)
    width = sigma[:, None].to(frames.dtype).clamp(min=1e-3)         # so narrow, all weight is on the pixel itself
    kernel = (-0.5 * (offset / width) ** 2).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True))[:, None]                                    # B x 1 x K
    rows = F.pad(frames, (reach,) * 4, mode="reflect").transpose(0, 1)                          # 1 x B x H x W
    rows = F.conv2d(rows, kernel[:, :, None], groups=len(frames))
    return F.conv2d(rows, kernel[..., None], groups=len(frames)).transpose(0, 1)


def denoised(frames: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Soft threshold [B, 1, 1, 1] on the details of one level of a Haar wavelet (Donoho 1995); frames [B, 1, H, W]."""
    height, width = frames.shape[-2:]
    even = F.pad(frames, (0, width % 2, 0, height % 2), mode="replicate")
    signs = even.new_tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    haar = F.conv2d(even, signs.view(4, 1, 2, 2), stride=2)                                     # B x 4 x H/2 x W/2
    details = haar[:, 1:].sign() * (haar[:, 1:].abs() - threshold).clamp(min=0)
    again = F.conv_transpose2d(torch.cat([haar[:, :1], details], 1), signs.view(4, 1, 2, 2), stride=2)
    return again[..., :height, :width]
