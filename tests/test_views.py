"""Views against torchvision's own operators: the same pixels for the same draw, the same distribution of draws."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import ColorJitter, RandomResizedCrop
from torchvision.transforms import functional as operators

from stages.lib.params import UserError, from_params
from stages.lib.training.views import Views, jitter, resized_crop

SETTINGS = {"crop_scale": [0.3, 1.0], "crop_ratio": [0.75, 1.333], "flip_probability": 0.5, "brightness": 0.8,
            "contrast": 0.8, "mean": 0.5, "std": 0.25}


def frames(samples, height=40, width=56, seed=0):
    return torch.rand(samples, 1, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def test_crop_and_flip_give_torchvisions_pixels():
    images = frames(12)
    boxes = Views(**SETTINGS).boxes(12, 40, 56, draw()).double()
    flips = torch.arange(12) % 2 == 1
    for image, box, flip, ours in zip(images, boxes, flips, resized_crop(images, boxes, flips), strict=True):
        left, top, width, height = (int(value) for value in box)
        theirs = operators.resized_crop(image, top, left, height, width, [40, 56], antialias=False)
        theirs = operators.hflip(theirs) if flip else theirs
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_the_whole_frame_unflipped_is_the_frame():
    images = frames(3)
    whole = torch.tensor([[0, 0, 56, 40]]).double().expand(3, -1)
    assert torch.allclose(resized_crop(images, whole, torch.zeros(3, dtype=torch.bool)), images, atol=1e-12)


@pytest.mark.parametrize("scale", [[0.3, 1.0], [0.8, 1.0], [0.97, 1.0]])
def test_boxes_are_drawn_as_torchvision_draws_them(scale):
    """Kolmogorov–Smirnov on left, top, width and height of 4,000 crops; with the last scale most tries fail."""
    ours = Views(**SETTINGS | {"crop_scale": scale}).boxes(4000, 48, 48, draw(3)).numpy()
    torch.manual_seed(4)
    theirs = [RandomResizedCrop.get_params(torch.zeros(1, 48, 48), scale, [0.75, 1.333]) for _ in range(4000)]
    theirs = np.array(theirs)[:, [1, 0, 3, 2]]      # torchvision says top, left, height, width
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3


@pytest.mark.parametrize("ratio", [[0.4, 0.6], [1.5, 2.0], [0.75, 1.333]])
@pytest.mark.parametrize("size", [(48, 48), (40, 57), (57, 40)])
def test_where_no_crop_fits_it_is_torchvisions_in_the_middle(size, ratio):
    """Crops of ten times the area never fit; torchvision's are then the largest of an allowed ratio."""
    boxes = Views(**SETTINGS | {"crop_scale": [10.0, 10.0], "crop_ratio": ratio}).boxes(3, *size, draw())
    top, left, height, width = RandomResizedCrop.get_params(torch.zeros(1, *size), [10.0, 10.0], ratio)
    assert boxes.tolist() == [[left, top, width, height]] * 3


def test_jitter_is_distributed_as_torchvisions():
    image = frames(1)[0]
    ours = jitter(image.expand(3000, 1, 40, 56).float(), **Views(**SETTINGS).tones(3000, draw(5)))
    torch.manual_seed(6)
    operator = ColorJitter(brightness=0.8, contrast=0.8)
    theirs = torch.stack([operator(image.float()) for _ in range(3000)])
    for statistic in (lambda x: x.mean((1, 2, 3)), lambda x: x.std((1, 2, 3))):
        assert ks_2samp(statistic(ours), statistic(theirs)).pvalue > 1e-3


def test_flips_come_as_often_as_asked():
    ramp = torch.linspace(0, 1, 32).expand(2000, 1, 32, 32)
    still = SETTINGS | {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "brightness": 0.0, "contrast": 0.0}
    views = Views(**still | {"flip_probability": 0.25})(ramp, draw(7))
    flipped = (views[:, 0, 0, 0] > views[:, 0, 0, -1]).double().mean()
    assert abs(flipped - 0.25) < 0.04
    assert torch.allclose(Views(**still | {"flip_probability": 0.0})(ramp, draw()), ramp, atol=1e-6)


def test_samples_do_not_share_their_draw_and_the_seed_decides():
    image = frames(1).float().expand(8, 1, 40, 56)
    views = Views(**SETTINGS)
    first, again, other = views(image, draw(1)), views(image, draw(1)), views(image, draw(2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len({tuple(view.flatten().tolist()) for view in first}) == 8


@pytest.mark.parametrize("wrong", [{"crop_scale": [-0.1, 1.0]}, {"crop_scale": [0.5, 1.5]}, {"crop_scale": [0.5]},
                                   {"crop_ratio": [2.0, 1.0]}, {"flip_probability": 1.5}, {"brightness": -0.1}, {"std": 0.0}])
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(UserError, match=f"finetune.views.{next(iter(wrong))}.* it must be"):
        from_params(Views, SETTINGS | wrong, "finetune.views")


def test_masks_go_with_their_frames():
    """Of frames that show their own masks: what is seen through the crop and flip lies where the mask says."""
    masks = torch.zeros(20, 1, 32, 32, dtype=torch.uint8)
    masks[:, :, 6:14, 4:20], masks[:, :, 20:28, 18:30] = 1, 7
    views, draws = Views(**SETTINGS | {"brightness": 0, "contrast": 0}), [draw(3), draw(3)]
    seen, placed = views.with_masks((masks > 0).float(), masks, draws[0])
    assert placed.dtype == torch.uint8 and set(placed.unique().tolist()) == {0, 1, 7}
    assert ((seen > 0.5) == (placed > 0)).float().mean() > 0.98 and not torch.equal(placed, masks)
    assert torch.equal(views((masks > 0).float(), draws[1]), seen)
