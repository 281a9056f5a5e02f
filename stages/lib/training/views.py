"""Views: random augmentation of grey frames, all samples of a batch at once, on the frames' device."""

import math

import torch
import torch.nn.functional as F

from stages.lib.params import Fraction, FractionSpan, NotNegative, Positive, PositiveSpan, block_of

TRIES = 10  # torchvision.transforms.RandomResizedCrop gives up after as many, too


class Views:
    """Random resized crop, horizontal flip, brightness and contrast; each sample has its own random parameters.

    The distribution is that of torchvision's RandomResizedCrop (bilinear), RandomHorizontalFlip and ColorJitter(brightness,
    contrast) on one frame at a time; here two or three tensor operations do the whole batch.

    Args:
        crop_scale: smallest and largest area of the crop, as fractions of the frame's.
        crop_ratio: smallest and largest width / height of the crop.
        flip_probability: of a horizontal flip.
        brightness, contrast: half width of the range around 1 from which the factor is drawn; 0 leaves it out.
        mean, std: of the grey values (0 to 1), subtracted and divided by at the end.
    """

    def __init__(
        self,
        crop_scale: FractionSpan,
        crop_ratio: PositiveSpan,
        flip_probability: Fraction,
        brightness: NotNegative,
        contrast: NotNegative,
        mean: float,
        std: Positive,
    ):
        self.crop_scale, self.crop_ratio, self.flip_probability = crop_scale, crop_ratio, flip_probability
        self.brightness, self.contrast, self.mean, self.std = brightness, contrast, mean, std

    def __call__(self, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """One view of each frame, not yet normalised: [B, 1, H, W] in 0…1 → the same shape and range."""
        return self.apply(frames, **self.draw(len(frames), frames.shape[-2:], generator))

    def draw(
        self, samples: int, size: tuple[int, int], generator: torch.Generator, fan: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """The arguments of `apply` for so many frames of this height and width, each [samples, …]; fans are not used here."""
        boxes = self.boxes(samples, *size, generator)
        flips = uniform(samples, generator=generator) < self.flip_probability
        return {"boxes": boxes, "flips": flips, **self.tones(samples, generator)}

    def with_masks(
        self, frames: torch.Tensor, masks: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One view of each frame, and its mask [B, 1, H, W] (whole numbers) cropped and flipped with it."""
        drawn = self.draw(len(frames), frames.shape[-2:], generator)
        placed = resized_crop(masks.float(), drawn["boxes"], drawn["flips"], "nearest").to(masks.dtype)
        return self.apply(frames, **drawn), placed

    def tones(self, samples: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The arguments of `jitter`: factors of brightness and contrast [samples, 2], samples with contrast first [samples]."""
        factors = [
            uniform(samples, generator=generator, low=max(0, 1 - reach), high=1 + reach)
            for reach in (self.brightness, self.contrast)
        ]
        return {"factors": torch.stack(factors, 1), "contrast_first": uniform(samples, generator=generator) < 0.5}

    def apply(
        self,
        frames: torch.Tensor,
        boxes: torch.Tensor,
        flips: torch.Tensor,
        factors: torch.Tensor,
        contrast_first: torch.Tensor,
    ) -> torch.Tensor:
        """The views with these random parameters: [B, 1, H, W] → the same shape."""
        return jitter(resized_crop(frames, boxes, flips), factors, contrast_first)

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        """(frames − mean) / std."""
        return (frames - self.mean) / self.std

    def boxes(self, samples: int, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
        """Crops (left, top, width, height) in whole pixels, [B, 4].

        If all tries fail, the sample gets the largest crop in the middle that has an allowed ratio, as in torchvision.
        """
        area = height * width * uniform(samples, TRIES, generator=generator, low=self.crop_scale[0], high=self.crop_scale[-1])
        log_ratio = [math.log(ratio) for ratio in self.crop_ratio]
        ratio = uniform(samples, TRIES, generator=generator, low=log_ratio[0], high=log_ratio[-1]).exp()
        size = torch.stack([(area * ratio).sqrt().round(), (area / ratio).sqrt().round()], -1)      # B x TRIES x 2
        most = min(width, max(1, round(height * self.crop_ratio[-1]))), min(height, max(1, round(width / self.crop_ratio[0])))
        whole, largest = (torch.stack([size.new_full((), side) for side in sides])                  # 2, made on the device
                          for sides in ((width, height), most))
        fits = ((size > 0) & (size <= whole)).all(-1)                                               # B x TRIES
        found, first = fits.any(1)[:, None], fits.int().argmax(1)
        size = torch.where(found, size[torch.arange(samples, device=size.device), first], largest)
        room = whole - size
        corner = torch.where(found, uniform(samples, 2, generator=generator) * (room + 1), room / 2).floor()   # B x 2
        return torch.cat([corner, size], 1)


ViewsBlock = block_of(Views, null=("mean", "std"))      # of params.yaml; null: as the initial weights were trained


def jitter(frames: torch.Tensor, factors: torch.Tensor, contrast_first: torch.Tensor) -> torch.Tensor:
    """Brightness and contrast, x → clamp(f x + (1 − f) m) with m = 0 or the mean, in the order that each sample has.

    Args:
        frames: [B, 1, H, W].
        factors: of brightness and of contrast, [B, 2].
        contrast_first: [B].
    """
    factors = factors.to(frames.dtype)
    for is_contrast in (contrast_first, ~contrast_first):
        factor = torch.where(is_contrast, factors[:, 1], factors[:, 0])[:, None, None, None]
        anchor = torch.where(is_contrast, frames.mean((1, 2, 3)), 0)[:, None, None, None]
        frames = torch.lerp(anchor, frames, factor).clamp_(0, 1)
    return frames


def resized_crop(
    frames: torch.Tensor, boxes: torch.Tensor, flips: torch.Tensor, interpolation: str = "bilinear"
) -> torch.Tensor:
    """Crop, resize back and flip, each sample by its own box, in one `grid_sample`.

    Args:
        frames: [B, 1, H, W].
        boxes: left, top, width, height in pixels, [B, 4].
        flips: which samples are mirrored left to right, [B].
        interpolation: bilinear, or nearest, for masks.
    """
    height, width = frames.shape[-2:]
    across = _positions(boxes[:, 0], boxes[:, 2], width)                                 # B x W
    down = _positions(boxes[:, 1], boxes[:, 3], height)                                  # B x H
    across = torch.where(flips[:, None], across.flip(1), across)
    x = ((2 * across + 1) / width - 1)[:, None, :].expand(-1, height, -1)                # grid_sample's −1…1
    y = ((2 * down + 1) / height - 1)[:, :, None].expand(-1, -1, width)
    grid = torch.stack([x, y], -1).to(frames.dtype)
    return F.grid_sample(frames, grid, interpolation, padding_mode="border", align_corners=False)


def _positions(start: torch.Tensor, length: torch.Tensor, points: int) -> torch.Tensor:
    """Where `points` pixels of a resized crop lie in the frame, [B, points]; never outside the crop, as in torchvision."""
    step = (torch.arange(points, dtype=start.dtype, device=start.device) + 0.5) / points
    inside = step * length[:, None] - 0.5
    return start[:, None] + torch.minimum(inside.clamp(min=0), length[:, None] - 1)


def uniform(*shape: int, generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """Uniform random numbers on the generator's device."""
    return low + (high - low) * torch.rand(*shape, generator=generator, device=generator.device)
