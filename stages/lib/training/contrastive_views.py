"""Views of the pretraining methods: those of fine-tuning, with a probability of the jitter, and blur and solarisation."""

import torch

from stages.lib.params import Fraction, FractionSpan, NotNegative, Positive, PositiveSpan
from stages.lib.training.filters import gaussian_blur
from stages.lib.training.views import Views, uniform


class ContrastiveViews(Views):
    """`Views` with the operations that BYOL, MoCo v2 and their successors add, in their order.

    The distribution is that of torchvision's RandomResizedCrop, RandomHorizontalFlip, RandomApply(ColorJitter),
    RandomApply(GaussianBlur) and RandomSolarize on one frame at a time.

    Args:
        crop_scale, crop_ratio, flip_probability, brightness, contrast, mean, std: as in `Views`.
        jitter_probability: of brightness and contrast together.
        blur_probability: of a Gaussian blur.
        blur_sigma: least and greatest standard deviation of the blur, as fractions of the frame's side.
        solarize_probability: of inverting all grey values of 0.5 and more.
    """

    def __init__(
        self,
        crop_scale: FractionSpan,
        crop_ratio: PositiveSpan,
        flip_probability: Fraction,
        brightness: NotNegative,
        contrast: NotNegative,
        jitter_probability: Fraction,
        blur_probability: Fraction,
        blur_sigma: PositiveSpan,
        solarize_probability: Fraction,
        mean: float,
        std: Positive,
    ):
        super().__init__(crop_scale, crop_ratio, flip_probability, brightness, contrast, mean, std)
        self.jitter_probability, self.solarize_probability = jitter_probability, solarize_probability
        self.blur_probability, self.blur_sigma = blur_probability, blur_sigma

    def draw(
        self, samples: int, size: tuple[int, int], generator: torch.Generator, fan: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """As in `Views`."""
        drawn = super().draw(samples, size, generator)
        jittered = uniform(samples, 1, generator=generator) < self.jitter_probability
        drawn["factors"] = torch.where(jittered, drawn["factors"], 1.0)
        sigma = size[-1] * uniform(samples, generator=generator, low=self.blur_sigma[0], high=self.blur_sigma[1])
        drawn["blur"] = torch.where(uniform(samples, generator=generator) < self.blur_probability, sigma, 0.0)
        return drawn | {"solarized": uniform(samples, generator=generator) < self.solarize_probability}

    def apply(
        self,
        frames: torch.Tensor,
        boxes: torch.Tensor,
        flips: torch.Tensor,
        factors: torch.Tensor,
        contrast_first: torch.Tensor,
        blur: torch.Tensor,
        solarized: torch.Tensor,
    ) -> torch.Tensor:
        """As in `Views`; blur [B] in px, solarized [B] bool."""
        frames = super().apply(frames, boxes, flips, factors, contrast_first)
        if self.blur_probability > 0:
            frames = gaussian_blur(frames, blur, self.blur_sigma[1] * frames.shape[-1])
        if self.solarize_probability > 0:
            frames = torch.where(solarized[:, None, None, None] & (frames >= 0.5), 1 - frames, frames)
        return frames
