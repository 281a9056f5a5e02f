"""Semantic views: what another examination of the same tissue might have shown, on the device and for the whole batch at once.

After VanBerlo et al. 2025 (arXiv 2504.07904), whose idea it is to change what does not change a sonographer's reading; the
strengths are parameters. All geometry, that of the probe and the usual one, is one sampling grid.
"""

import math

import torch
import torch.nn.functional as F

from stages.lib.params import require
from stages.lib.training.views import Views, jitter, uniform

LINEAR = 0.01  # half angle of a linear probe, as in stages/lib/clips/fan.py
EDGE = 0.03  # tissue so far outside the fan, as a fraction of its width and depth, is still shown


class SemanticViews(Views):
    """Views by probe, depth, gain and noise. A range whose ends are both 1, or a strength of 0, leaves its change out.

    Where a clip's fan is not known, the probe and the depth stay as they are.

    Args:
        probe_probability: of a convex probe in place of a linear one, or the other way round.
        convex_degrees: half opening of the convex probe that takes the place of a linear one.
        opening_scale: factor of the fan's opening.
        depth_scale: factor of the depth shown, about the probe's face.
        crop_scale, crop_ratio, flip_probability: as in `Views`.
        rotation_degrees, shear_degrees: largest, to either side, about the centre.
        brightness, contrast: as in `Views`.
        gamma: exponent of the grey values.
        local_contrast: largest gain of what differs from its surroundings (a twentieth of the frame to each side).
        denoising: largest threshold in grey values 0…1 under which the details of a Haar wavelet vanish.
        blur_probability, blur_sigma_px: of a Gaussian blur.
        speckle: largest spread of noise that multiplies the grey values.
        noise: largest spread of noise that is added.
        mean, std: as in `Views`.
    """

    def __init__(
        self,
        probe_probability: float,
        convex_degrees: list,
        opening_scale: list,
        depth_scale: list,
        crop_scale: list,
        crop_ratio: list,
        flip_probability: float,
        rotation_degrees: float,
        shear_degrees: float,
        brightness: float,
        contrast: float,
        gamma: list,
        local_contrast: float,
        denoising: float,
        blur_probability: float,
        blur_sigma_px: list,
        speckle: float,
        noise: float,
        mean: float,
        std: float,
    ):
        super().__init__(crop_scale, crop_ratio, flip_probability, brightness, contrast, mean, std)
        ranges = {"convex_degrees": convex_degrees, "opening_scale": opening_scale, "depth_scale": depth_scale, "gamma": gamma}
        for name, value in (ranges | {"blur_sigma_px": blur_sigma_px}).items():
            numbers = len(value) == 2 and all(isinstance(end, (int, float)) for end in value)
            require(numbers and 0 < value[0] <= value[1], f"views.{name} is {value}; it needs 0 < least <= most")
        require(convex_degrees[-1] < 80, f"views.convex_degrees is {convex_degrees}; the most must be below 80")
        for name, value in {"probe_probability": probe_probability, "blur_probability": blur_probability}.items():
            require(0 <= value <= 1, f"views.{name} is {value}; it is a probability, 0 to 1")
        self.strengths = {"local_contrast": local_contrast, "denoising": denoising, "speckle": speckle, "noise": noise}
        for name, value in (self.strengths | {"rotation_degrees": rotation_degrees, "shear_degrees": shear_degrees}).items():
            require(value >= 0, f"views.{name} is {value}; it cannot be negative")
        require(shear_degrees < 80, f"views.shear_degrees is {shear_degrees}; it must be below 80")
        self.ranges, self.blur_sigma_px = ranges, blur_sigma_px
        self.probe_probability, self.blur_probability = probe_probability, blur_probability
        self.angles = {"rotation": math.radians(rotation_degrees), "shear": math.radians(shear_degrees)}

    def draw(
        self, samples: int, size: tuple[int, int], generator: torch.Generator, fan: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """As in `Views`; `fan` [samples, 5] as in stages/lib/clips/fan.py, NaN where unknown, None where all are."""
        drawn = super().draw(samples, size, generator)
        for name, most in self.angles.items():
            drawn[name] = uniform(samples, generator=generator, low=-most, high=most)
        for name, most in self.strengths.items():
            drawn[name] = most * uniform(samples, generator=generator)
        for name, (low, high) in self.ranges.items():
            drawn[name] = uniform(samples, generator=generator, low=low, high=high)
        sigma = uniform(samples, generator=generator, low=self.blur_sigma_px[0], high=self.blur_sigma_px[1])
        blurred = uniform(samples, generator=generator) < self.blur_probability
        drawn["blur"] = torch.where(blurred, sigma, 0)
        changed = uniform(samples, generator=generator) < self.probe_probability
        drawn["fan"] = sigma.new_full((samples, 5), torch.nan) if fan is None else fan
        opening, convex = drawn.pop("opening_scale"), drawn.pop("convex_degrees").deg2rad()
        drawn["seen_fan"] = other_fan(drawn["fan"], opening, changed, convex)
        grains = torch.randn(samples, 2, *size, generator=generator, device=generator.device)
        return drawn | {"grains": grains}

    def apply(
        self,
        frames: torch.Tensor,
        boxes: torch.Tensor,
        flips: torch.Tensor,
        rotation: torch.Tensor,
        shear: torch.Tensor,
        fan: torch.Tensor,
        seen_fan: torch.Tensor,
        depth_scale: torch.Tensor,
        blur: torch.Tensor,
        denoising: torch.Tensor,
        local_contrast: torch.Tensor,
        factors: torch.Tensor,
        contrast_first: torch.Tensor,
        gamma: torch.Tensor,
        speckle: torch.Tensor,
        noise: torch.Tensor,
        grains: torch.Tensor,
    ) -> torch.Tensor:
        """The views that were drawn: [B, 1, H, W] → the same."""
        points = affine(cropped(boxes, flips, frames.shape[-2:]), rotation, shear)
        points = reseen(points, fan, seen_fan, depth_scale)
        frames = F.grid_sample(frames, (2 * points - 1).to(frames.dtype), align_corners=False)
        each = {name: value[:, None, None, None].to(frames.dtype) for name, value in
                {"gamma": gamma, "local": local_contrast, "denoising": denoising, "speckle": speckle, "noise": noise}.items()}
        frames = denoised(gaussian_blur(frames, blur, self.blur_sigma_px[1]), each["denoising"])
        side = frames.shape[-1] // 20 * 2 + 1
        around = F.avg_pool2d(frames, (side, 1), stride=1, padding=(side // 2, 0), count_include_pad=False)
        around = F.avg_pool2d(around, (1, side), stride=1, padding=(0, side // 2), count_include_pad=False)
        frames = (frames + each["local"] * (frames - around)).clamp(0, 1)
        frames = jitter(frames, factors, contrast_first) ** each["gamma"]
        grain, hiss = grains.to(frames.dtype).split(1, 1)
        return (frames * (1 + each["speckle"] * grain) + each["noise"] * hiss).clamp(0, 1)


def cropped(boxes: torch.Tensor, flips: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Where the pixels of a crop that is resized to the frame's size lie in the frame, [B, H, W, 2], 0…1 from left and top."""
    across, down = ((torch.arange(points, device=boxes.device) + 0.5) / points for points in (size[1], size[0]))
    across = torch.where(flips[:, None], across.flip(0), across)                                # B x W
    x = (boxes[:, :1] + boxes[:, 2:3] * across) / size[1]
    y = (boxes[:, 1:2] + boxes[:, 3:] * down) / size[0]
    return torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)


def affine(points: torch.Tensor, rotation: torch.Tensor, shear: torch.Tensor) -> torch.Tensor:
    """Where points [B, H, W, 2] of the turned and sheared frame lie in the frame; angles [B] as torchvision has them."""
    x, y = (points - 0.5).unbind(-1)
    cos, sin, tan = (value[:, None, None] for value in (rotation.cos(), rotation.sin(), shear.tan()))
    x, y = cos * x + sin * y, cos * y - sin * x
    return torch.stack([x + tan * y, y], -1) + 0.5


def other_fan(fan: torch.Tensor, opening: torch.Tensor, changed: torch.Tensor, convex: torch.Tensor) -> torch.Tensor:
    """The fan [B, 5] as another probe shows it, of the same size and at the same place in the square.

    Args:
        fan: apex_x, apex_y, half_angle, near, far, in sides of the square.
        opening: factor of the half angle, [B].
        changed: whether linear becomes convex, or convex linear; its width in the middle of the depth stays, [B].
        convex: half angle of the convex probe in place of a linear one, [B].
    """
    apex_x, apex_y, angle, near, far = fan.unbind(1)
    depth, arc = far - near, angle * (near + far) / 2
    other = torch.where(changed, torch.where(angle > 2 * LINEAR, LINEAR, convex), angle)
    near = torch.where(changed, (arc / other - depth / 2).clamp(min=0.02), near)
    wide = (other * opening).clamp(max=1.4)
    scale = _extent(angle, fan[:, 3], far) / _extent(wide, near, near + depth)
    near, depth = near * scale, depth * scale
    middle = apex_y + (fan[:, 3] * angle.cos() + far) / 2
    other = torch.stack([apex_x, middle - (near * wide.cos() + near + depth) / 2, wide, near, near + depth], 1)
    return torch.where((changed | (opening != 1))[:, None], other, fan)    # as it is to the last bit, for `reseen`


def _extent(angle: torch.Tensor, near: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
    """The longer side of the box around a fan."""
    return torch.maximum(2 * far * angle.sin(), far - near * angle.cos())


def reseen(points: torch.Tensor, fan: torch.Tensor, seen_fan: torch.Tensor, depth_scale: torch.Tensor) -> torch.Tensor:
    """Where the points [B, H, W, 2] of a frame that shows `seen_fan` lie in the frame that shows `fan`.

    Both are pieces of a ring [B, 5]: the same beam (fraction of the half angle) and the same depth (fraction of that shown,
    times depth_scale [B]) correspond. What lies outside the fan that is seen comes from outside the frame, which is black.
    """
    apex_x, apex_y, angle, near, far = seen_fan[:, :, None, None].unbind(1)
    across, along = points[..., 0] - apex_x, points[..., 1] - apex_y
    beam = torch.atan2(across, along) / angle
    shown = (torch.hypot(across, along) - near) / (far - near)
    depth = shown * depth_scale[:, None, None]
    inside = (beam.abs() <= 1 + EDGE) & (shown >= -EDGE) & (torch.maximum(shown, depth) <= 1 + EDGE)
    apex_x, apex_y, angle, near, far = fan[:, :, None, None].unbind(1)
    reach = near + depth * (far - near)
    found = torch.stack([apex_x + reach * (beam * angle).sin(), apex_y + reach * (beam * angle).cos()], -1)
    same = (fan == seen_fan).all(1) & (depth_scale == 1)
    known = fan.isfinite().all(1) & ~same
    return torch.where(known[:, None, None, None], torch.where(inside[..., None], found, 2.0), points)


def gaussian_blur(frames: torch.Tensor, sigma: torch.Tensor, most: float) -> torch.Tensor:
    """Each frame [B, 1, H, W] blurred with its own sigma [B] in px (0: not at all), none above `most`."""
    reach = min(math.ceil(3 * most), *(side - 1 for side in frames.shape[-2:]))
    offset = torch.arange(-reach, reach + 1, dtype=frames.dtype, device=frames.device)
    kernel = (-0.5 * (offset / sigma[:, None].to(frames.dtype).clamp(min=1e-3)) ** 2).exp()
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
