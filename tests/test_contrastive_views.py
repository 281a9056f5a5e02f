"""Jitter, blur and solarisation of the pretraining views against torchvision's own operators."""

import pytest
import torch
from scipy.stats import ks_2samp
from test_methods import BLOCKS
from torchvision.transforms import GaussianBlur
from torchvision.transforms import functional as operators

from stages.lib.params import UserError, from_params
from stages.lib.training.contrastive_views import ContrastiveViews

STILL = {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "flip_probability": 0.0, "brightness": 0.0, "contrast": 0.0,
         "jitter_probability": 1.0, "blur_probability": 0.0, "blur_sigma": [0.001, 0.02], "solarize_probability": 0.0,
         "mean": 0.5, "std": 0.25}


def drawn(samples=4000, side=64, seed=0, **change):
    return ContrastiveViews(**STILL | change).draw(samples, (side, side), torch.Generator().manual_seed(seed))


def seen(frames, seed=0, **change):
    return ContrastiveViews(**STILL | change)(frames, torch.Generator().manual_seed(seed))


@pytest.fixture
def frames():
    return torch.rand(60, 1, 40, 40, generator=torch.Generator().manual_seed(5))


def test_without_any_change_the_frames_stay(frames):
    assert torch.allclose(seen(frames), frames, atol=1e-6)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_brightness_and_contrast_come_together_as_often_as_asked(probability):
    factors = drawn(brightness=0.4, contrast=0.4, jitter_probability=probability)["factors"]
    changed = factors != 1
    assert torch.equal(changed[:, 0], changed[:, 1])
    assert abs(float(changed[:, 0].double().mean()) - probability) < 0.03


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("side", [64, 224])
def test_blur_is_drawn_as_torchvision_draws_it_in_parts_of_the_side(probability, side):
    blur = drawn(side=side, blur_probability=probability, blur_sigma=[0.1 / 224, 2 / 224])["blur"]
    assert abs(float((blur > 0).double().mean()) - probability) < 0.03
    if probability:
        torch.manual_seed(3)
        theirs = [GaussianBlur.get_params(0.1, 2.0) * side / 224 for _ in range(3000)]
        assert ks_2samp(blur[blur > 0].numpy(), theirs).pvalue > 1e-3


def test_blurred_pixels_are_torchvisions(frames):
    """All blurred with one width; torchvision's kernel must be as long as ours."""
    sigma = 0.03 * 40
    reach = 2 * -(-3 * sigma // 1) + 1
    ours = seen(frames, blur_probability=1.0, blur_sigma=[0.03, 0.03])
    theirs = operators.gaussian_blur(frames, [int(reach)] * 2, [sigma] * 2)
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_solarised_pixels_are_torchvisions_and_as_often_as_asked(frames, probability):
    ours = seen(frames, solarize_probability=probability)
    theirs = operators.solarize(frames, 0.5)
    inverted = torch.tensor([torch.allclose(one, other, atol=1e-6) for one, other in zip(ours, theirs, strict=True)])
    kept = torch.tensor([torch.allclose(one, other, atol=1e-6) for one, other in zip(ours, frames, strict=True)])
    assert (inverted ^ kept).all()
    wanted = drawn(samples=60, solarize_probability=probability)["solarized"]
    assert torch.equal(inverted, wanted) and abs(float(wanted.double().mean()) - probability) < 0.2


@pytest.mark.parametrize("wrong", [{"jitter_probability": 1.1}, {"blur_probability": -0.1}, {"blur_sigma": [0.0, 0.1]},
                                   {"solarize_probability": "often"}])  # fmt: skip
def test_impossible_settings_are_refused_by_name(wrong):
    name = next(iter(wrong))
    with pytest.raises(UserError, match=rf"methods\.byol\.views\.{name}"):
        from_params(ContrastiveViews, BLOCKS["byol"]["views"] | wrong, "methods.byol.views")
