"""Semantic views: the same tissue as another examination might have shown it, for the whole batch at once.

The idea is that of VanBerlo et al. 2025 (arXiv 2504.07904): change only what a sonographer's reading does not depend on. The
strengths are parameters. All changes of geometry together are one sampling grid.
"""

import math
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt

from stages.lib.params import Fraction, FractionSpan, NotNegative, Positive, PositiveSpan, block_of, from_params, span
from stages.lib.training.contrastive_views import ContrastiveViews
from stages.lib.training.filters import denoised, gaussian_blur
from stages.lib.training.geometry import affine, as_shown, cropped, other_fan
from stages.lib.training.views import Views, jitter, uniform


class SemanticViews(Views):
    """Views that change probe, depth, gain and noise. A range of [1, 1] or a strength of 0 switches its change off.

    Probe and depth change only where the clip's fan is known.

    Args:
        probe_probability: of replacing a linear probe by a convex one, or a convex one by a linear one.
        convex_degrees: half opening of the convex probe that replaces a linear one, below 80.
        opening_scale: factor of the fan's opening.
        depth_scale: factor of the depth shown, about the probe's face.
        crop_scale, crop_ratio, flip_probability: as in `Views`.
        rotation_degrees, shear_degrees: greatest angle to either side, about the centre.
        brightness, contrast: as in `Views`.
        gamma: exponent of the grey values.
        local_contrast: greatest gain of a pixel's difference from its surroundings (a twentieth of the frame to each side).
        denoising: greatest threshold, in grey values 0…1, below which details of a Haar wavelet are removed.
        blur_probability, blur_sigma_px: of a Gaussian blur.
        speckle: greatest standard deviation of the noise that multiplies the grey values.
        noise: greatest standard deviation of the noise that is added.
        mean, std: as in `Views`.
    """

    def __init__(
        self,
        probe_probability: Fraction,
        convex_degrees: span(Annotated[float, Gt(0), Lt(80)]),
        opening_scale: PositiveSpan,
        depth_scale: PositiveSpan,
        crop_scale: FractionSpan,
        crop_ratio: PositiveSpan,
        flip_probability: Fraction,
        rotation_degrees: NotNegative,
        shear_degrees: Annotated[float, Ge(0), Lt(80)],
        brightness: NotNegative,
        contrast: NotNegative,
        gamma: PositiveSpan,
        local_contrast: NotNegative,
        denoising: NotNegative,
        blur_probability: Fraction,
        blur_sigma_px: PositiveSpan,
        speckle: NotNegative,
        noise: NotNegative,
        mean: float,
        std: Positive,
    ):
        super().__init__(crop_scale, crop_ratio, flip_probability, brightness, contrast, mean, std)
        self.ranges = {"convex_degrees": convex_degrees, "opening_scale": opening_scale, "depth_scale": depth_scale}
        self.ranges["gamma"] = gamma
        self.strengths = {"local_contrast": local_contrast, "denoising": denoising, "speckle": speckle, "noise": noise}
        self.blur_sigma_px = blur_sigma_px
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
        drawn["shown_fan"] = other_fan(drawn["fan"], opening, changed, convex)
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
        shown_fan: torch.Tensor,
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
        """The views with these random parameters: [B, 1, H, W] → the same shape."""
        points = affine(cropped(boxes, flips, frames.shape[-2:]), rotation, shear)
        points = as_shown(points, fan, shown_fan, depth_scale)
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


class ViewChoice(NamedTuple):
    """The keys of the block `views`: the views of the method's own block, or the semantic ones."""

    pipeline: Literal["published", "semantic"]
    semantic: block_of(SemanticViews, "mean", "std")


def chosen_views(settings: dict, views: dict, name: str) -> Views:
    """The views of a method's block, or the semantic views with the normalisation of that block.

    Args:
        settings: the method's views, named `name` in params.yaml.
        views: the block `views`, with the keys of `ViewChoice`.
    """
    own, choice = from_params(ContrastiveViews, settings, name), from_params(ViewChoice, views, "views")
    if choice.pipeline == "published":
        return own
    return from_params(SemanticViews, choice.semantic, "views.semantic", mean=own.mean, std=own.std)
