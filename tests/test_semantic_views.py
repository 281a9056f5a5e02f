"""Semantic views against torchvision's operators, loops, and pictures of a known function of beam and depth."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import write_us4
from scipy.stats import ks_2samp, kstest, spearmanr
from test_methods import BLOCKS, METHODS, small
from torchvision.transforms import GaussianBlur, RandomAffine, v2
from torchvision.transforms import functional as operators

from stages import pretrain
from stages.lib.clips import store
from stages.lib.networks.backbone import Backbone
from stages.lib.params import UserError
from stages.lib.pretraining.clip_set import ClipSet
from stages.lib.training.contrastive_views import ContrastiveViews
from stages.lib.training.filters import denoised, gaussian_blur
from stages.lib.training.geometry import EDGE, LINEAR, as_shown, other_fan
from stages.lib.training.optimizer import optimizer_and_schedule
from stages.lib.training.semantic_views import SemanticViews, chosen_views
from stages.lib.training.views import Views, resized_crop

SEMANTIC = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())["views"]["semantic"]
TONE = {"mean": 0.5, "std": 0.25}
OFF = {"probe_probability": 0.0, "convex_degrees": [30.0, 30.0], "opening_scale": [1.0, 1.0], "depth_scale": [1.0, 1.0],
       "crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "flip_probability": 0.0, "rotation_degrees": 0.0,
       "shear_degrees": 0.0, "brightness": 0.0, "contrast": 0.0, "gamma": [1.0, 1.0], "local_contrast": 0.0, "denoising": 0.0,
       "blur_probability": 0.0, "blur_sigma_px": [1.0, 1.0], "speckle": 0.0, "noise": 0.0}
CONVEX = (0.5, -0.1, 0.45, 0.3, 1.05)                   # apex_x, apex_y, half_angle, near, far; all within the square
NARROW = (0.5, -0.05, 0.4, 0.15, 1.0)
WIDE = (0.48, 0.2, 0.6, 0.12, 0.7)
STRAIGHT = (0.5, 0.1 - 30, LINEAR, 30.0, 30.8)          # 0.6 wide, 0.8 deep
FANS = {"convex": CONVEX, "narrow": NARROW, "wide": WIDE, "linear": STRAIGHT}


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def frames(samples, side=48, seed=0):
    return torch.rand(samples, 1, side, side, generator=draw(seed), dtype=torch.float64)


def applied(images, settings=OFF, fan=None, **drawn):
    """Views of which all is left out but what is given as drawn."""
    views = SemanticViews(**settings, **TONE)
    return views.apply(images, **views.draw(len(images), images.shape[-2:], draw(), fan) | drawn)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def four_thousand(seed=0, fan=None, **changes):
    fan = None if fan is None else torch.tensor(fan).expand(4000, 5)
    return SemanticViews(**SEMANTIC | changes, **TONE).draw(4000, (4, 4), draw(seed), fan)


# Pixels


def test_all_left_out_is_the_frame():
    images = frames(3)
    assert torch.allclose(applied(images), images, atol=2e-5)


@pytest.mark.parametrize("side", [48, 49])
def test_rotation_and_shear_give_torchvisions_pixels(side):
    images, angles, shears = frames(6, side), [-30.0, -10.0, 0.0, 3.0, 20.0, 90.0], [0.0, 12.0, 30.0, -7.0, -20.0, 5.0]
    ours = applied(images, rotation=double(*angles).deg2rad(), shear=double(*shears).deg2rad())
    for image, angle, shear, view in zip(images, angles, shears, ours, strict=True):
        bilinear = operators.InterpolationMode.BILINEAR
        theirs = operators.affine(image, angle, [0, 0], 1.0, [shear, 0.0], bilinear)
        assert torch.allclose(view, theirs, atol=1e-5)


def test_crop_and_flip_are_those_of_the_other_views_away_from_the_crops_edge():
    images = frames(12)
    boxes = Views([0.3, 1.0], [0.75, 1.333], 0.5, 0, 0, 0.5, 0.25).boxes(12, 48, 48, draw()).double()
    flips = torch.arange(12) % 2 == 1
    difference = applied(images, boxes=boxes, flips=flips) - resized_crop(images, boxes, flips)
    assert difference[..., 3:-3, 3:-3].abs().max() < 2e-5


def test_crop_then_rotation_is_the_rotated_frame_cropped():
    """Of a smooth frame, to which the second interpolation matters little; and what is turned in from outside is black."""
    y, x = torch.meshgrid(*[(torch.arange(64.0, dtype=torch.float64) + 0.5) / 64] * 2, indexing="ij")
    image = (0.5 + 0.3 * (5 * x).sin() * (4 * y).cos())[None, None]
    box, angle, shear = double(16, 8, 40, 44)[None], double(15).deg2rad(), double(8).deg2rad()
    turned = applied(image, rotation=angle, shear=shear)
    ours = applied(image, rotation=angle, shear=shear, boxes=box)
    theirs = operators.resized_crop(turned, 8, 16, 44, 40, [64, 64], antialias=False)
    assert (ours - theirs)[..., 3:-3, 3:-3].abs().max() < 2e-3
    assert turned[0, 0, 0, -1] == turned[0, 0, -1, 0] == 0


@pytest.mark.parametrize("most", [0.5, 1.0, 2.5])
def test_blur_is_torchvisions_with_the_same_kernel_size(most):
    images, sigma = frames(4), double(0, 0.1, 0.4, 1) * most
    size = 2 * math.ceil(3 * most) + 1
    ours = gaussian_blur(images, sigma, most)
    assert torch.equal(ours[0], images[0])
    for image, width, view in zip(images[1:], sigma[1:].tolist(), ours[1:], strict=True):
        assert torch.allclose(view, operators.gaussian_blur(image, [size, size], [width, width]), atol=1e-6)


def test_blur_takes_each_samples_own_sigma_in_the_views():
    images, settings = frames(3), OFF | {"blur_sigma_px": [0.5, 1.5]}
    ours = applied(images, settings, blur=double(0.0, 0.7, 1.5))
    assert torch.allclose(ours, gaussian_blur(images, double(0.0, 0.7, 1.5), 1.5), atol=2e-5)
    assert not torch.allclose(ours[1:], images[1:], atol=1e-2)


def test_blur_of_a_frame_smaller_than_its_kernel():
    images = frames(2, 4)
    ours = gaussian_blur(images, double(0, 1), 3.0)
    assert ours.shape == images.shape and torch.equal(ours[0], images[0])
    assert torch.allclose(ours[1], operators.gaussian_blur(images[1], [7, 7], [1.0, 1.0]), atol=1e-6)


def test_gamma_is_torchvisions():
    images = 0.05 + 0.95 * frames(3)        # a root is steep at 0
    ours = applied(images, gamma=double(0.5, 1.0, 1.7))
    for image, gamma, view in zip(images, [0.5, 1.0, 1.7], ours, strict=True):
        assert torch.allclose(view, operators.adjust_gamma(image, gamma), atol=1e-4)


def test_brightness_and_contrast_are_torchvisions_in_either_order():
    images, factors = frames(4), [(0.5, 1.5), (1.6, 0.4), (0.5, 1.5), (1.6, 0.4)]
    ours = applied(images, factors=torch.tensor(factors), contrast_first=torch.arange(4) > 1)
    for number, (image, (brightness, contrast), view) in enumerate(zip(images, factors, ours, strict=True)):
        steps = [(operators.adjust_brightness, brightness), (operators.adjust_contrast, contrast)]
        for step, factor in steps[:: -1 if number > 1 else 1]:
            image = step(image, factor)
        assert torch.allclose(view, image, atol=1e-5)


def test_noise_is_torchvisions():
    grey = torch.full((8, 1, 48, 48), 0.5)
    added = (applied(grey, noise=torch.full((8,), 0.08)) - grey).flatten().numpy()
    torch.manual_seed(1)
    theirs = (v2.GaussianNoise(0.0, 0.08, clip=False)(grey) - grey).flatten().numpy()
    assert ks_2samp(added, theirs).pvalue > 1e-3
    assert added.mean() == pytest.approx(0, abs=4 * 0.08 / added.size**0.5)
    assert added.std() == pytest.approx(0.08, rel=0.02)


def test_speckle_multiplies_and_noise_adds_by_grains_of_their_own():
    images, speckle, noise = frames(3), double(0.0, 0.1, 0.3), double(0.05, 0.0, 0.1)
    grains = torch.randn(3, 2, 48, 48, generator=draw(5), dtype=torch.float64)
    ours = applied(images, speckle=speckle, noise=noise, grains=grains)
    for number in range(3):
        expected = images[number, 0] * (1 + speckle[number] * grains[number, 0]) + noise[number] * grains[number, 1]
        assert torch.allclose(ours[number, 0], expected.clamp(0, 1), atol=1e-5)
    drawn = four_thousand()["grains"]
    assert kstest(drawn[:, 0].flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(float((drawn[:, 0] * drawn[:, 1]).mean())) < 0.02


def haar_by_loop(image, threshold):
    """Soft-thresholded details of each 2×2 block, the last row and column doubled where a side is odd."""
    height, width = image.shape
    even = np.pad(image, ((0, height % 2), (0, width % 2)), mode="edge")
    out = np.empty_like(even)
    basis = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2        # orthonormal
    for y in range(0, even.shape[0], 2):
        for x in range(0, even.shape[1], 2):
            parts = basis @ even[y : y + 2, x : x + 2].ravel()
            parts[1:] = [math.copysign(max(abs(part) - threshold, 0), part) for part in parts[1:]]
            out[y : y + 2, x : x + 2] = (basis.T @ parts).reshape(2, 2)
    return out[:height, :width]


@pytest.mark.parametrize("size", [(8, 8), (7, 8), (8, 9), (11, 5)])
def test_denoising_is_the_loop_over_blocks(size):
    images = torch.rand(3, 1, *size, generator=draw(), dtype=torch.float64)
    thresholds = double(0.0, 0.1, 0.6)
    ours = denoised(images, thresholds[:, None, None, None])
    assert torch.allclose(ours[0], images[0], atol=1e-12)
    for image, threshold, view in zip(images, thresholds.tolist(), ours, strict=True):
        assert np.allclose(view[0], haar_by_loop(image[0].numpy(), threshold), atol=1e-12)
    square = images[..., :5, :5]
    assert torch.allclose(applied(square, denoising=thresholds), denoised(square, thresholds.view(3, 1, 1, 1)), atol=1e-6)


@pytest.mark.parametrize(("side", "reach"), [(16, 0), (24, 1), (47, 2)])
def test_local_contrast_is_the_loop_over_surroundings(side, reach):
    image, gain = frames(1, side), 0.4
    expected = torch.empty_like(image)
    for y in range(side):
        for x in range(side):
            near = image[0, 0, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            expected[0, 0, y, x] = image[0, 0, y, x] + gain * (image[0, 0, y, x] - near.mean())
    assert torch.allclose(applied(image, local_contrast=double(gain)), expected.clamp(0, 1), atol=1e-5)


def test_the_changes_come_in_this_order():
    """Blur, denoising, local contrast, brightness and contrast, gamma, noise: each by its own function, one after the other."""
    images, settings = frames(2), OFF | {"blur_sigma_px": [1.0, 1.0]}
    steps = {"blur": double(1, 0.6), "denoising": double(0.05, 0.2), "local_contrast": double(3.0, 2.0),
             "factors": double(0.7, 1.4).expand(2, 2), "gamma": double(0.7, 1.3), "speckle": double(0.1, 0.2)}
    one_by_one = images
    for name, value in steps.items():
        one_by_one = applied(one_by_one, settings, **{name: value})
    assert torch.allclose(applied(images, settings, **steps), one_by_one, atol=2e-4)


def test_samples_do_not_share_their_draw_and_the_seed_decides():
    image, fan = frames(1).float().expand(6, -1, -1, -1), torch.tensor(CONVEX).expand(6, 5)
    views = SemanticViews(**SEMANTIC, **TONE)
    first, again, other = (views.apply(image, **views.draw(6, (48, 48), draw(seed), fan)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len({tuple(view.flatten().tolist()) for view in first}) == 6
    assert first.isfinite().all() and first.min() >= 0 and first.max() <= 1 and first.dtype == torch.float32


# What is drawn


def test_angles_are_drawn_as_torchvision_draws_them():
    ours = four_thousand(rotation_degrees=20.0, shear_degrees=8.0)
    torch.manual_seed(2)
    theirs = [RandomAffine.get_params([-20.0, 20.0], None, None, [-8.0, 8.0], [48, 48]) for _ in range(4000)]
    for name, values in {"rotation": [angle for angle, *_ in theirs], "shear": [shear[0] for *_, shear in theirs]}.items():
        assert ks_2samp(ours[name].rad2deg().numpy(), values).pvalue > 1e-3


def test_blur_is_drawn_as_torchvision_draws_it_and_as_often_as_asked():
    blur = four_thousand(blur_probability=0.4, blur_sigma_px=[0.2, 1.4])["blur"].numpy()
    torch.manual_seed(3)
    theirs = [GaussianBlur.get_params(0.2, 1.4) for _ in range(4000)]
    assert ks_2samp(blur[blur > 0], theirs).pvalue > 1e-3
    assert abs((blur > 0).mean() - 0.4) < 0.04


def test_brightness_contrast_crop_and_flip_are_drawn_as_by_the_other_views():
    ours = four_thousand(seed=4)
    own = {name: SEMANTIC[name] for name in ("crop_scale", "crop_ratio", "flip_probability", "brightness", "contrast")}
    theirs = Views(**own, **TONE).draw(4000, (4, 4), draw(4))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.parametrize("name", ["depth_scale", "gamma", "local_contrast", "denoising", "speckle", "noise"])
def test_strengths_are_drawn_evenly_from_their_range(name):
    low, high = SEMANTIC[name] if isinstance(SEMANTIC[name], list) else (0, SEMANTIC[name])
    assert kstest(four_thousand(seed=6)[name].numpy(), "uniform", (low, high - low)).pvalue > 1e-3


@pytest.mark.parametrize("fan", FANS)
def test_the_probe_changes_as_often_as_asked_and_the_opening_is_drawn_evenly(fan):
    settings = {"opening_scale": [0.8, 1.25], "convex_degrees": [25.0, 35.0]}
    seen = four_thousand(seed=7, fan=FANS[fan], **settings, probe_probability=0.3)["shown_fan"]
    linear = fan == "linear"
    changed = (seen[:, 2] > 3 * LINEAR) if linear else (seen[:, 2] < 3 * LINEAR)
    assert abs(float(changed.float().mean()) - 0.3) < 0.03
    for part, angle in ((~changed, FANS[fan][2]), (changed, None if linear else LINEAR)):
        if angle:
            assert kstest((seen[part, 2] / angle).numpy(), "uniform", (0.8, 0.45)).pvalue > 1e-3
    convex = four_thousand(seed=7, fan=STRAIGHT, **settings | {"opening_scale": [1.0, 1.0]}, probe_probability=1.0)["shown_fan"]
    assert kstest(convex[:, 2].rad2deg().numpy(), "uniform", (25, 10)).pvalue > 1e-3


def test_what_is_drawn_is_independent():
    drawn = four_thousand(seed=8, fan=CONVEX, probe_probability=0.5, blur_probability=1.0)
    angle = drawn["shown_fan"][:, 2]
    drawn["changed"] = (angle < 3 * LINEAR).double()
    drawn["opening"] = torch.where(drawn["changed"] == 1, angle / LINEAR, angle / CONVEX[2])
    single = [value.numpy() for value in drawn.values() if value.dim() == 1]
    table = np.stack([*single, *drawn["factors"].T.numpy()], 1)
    rank = spearmanr(table).statistic - np.eye(table.shape[1])
    assert table.shape[1] >= 14 and np.abs(rank).max() < 5 / 4000**0.5


# The fan's geometry


def pixels(side, samples=1):
    """Centres of the pixels, 0…1, [samples, side, side, 2]."""
    centre = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    return torch.stack(torch.meshgrid(centre, centre, indexing="xy"), -1).expand(samples, -1, -1, -1)


def polar(fan, side):
    """Beam (−1…1) and depth (0…1) of each pixel, by the definition of a ring's piece."""
    apex_x, apex_y, angle, near, far = fan
    x, y = pixels(side)[0].unbind(-1)
    return torch.atan2(x - apex_x, y - apex_y) / angle, (torch.hypot(x - apex_x, y - apex_y) - near) / (far - near)


def grey(beam, depth):
    """A grey value 0.1…0.9 that tells left from right and near from far."""
    return 0.5 + 0.25 * torch.sin(1.5 * beam + 0.3) + 0.15 * torch.cos(3 * depth)


def picture(fan, side=128):
    """The frame that shows tissue of this grey value through a fan, black outside of it."""
    beam, depth = polar(fan, side)
    inside = (beam.abs() <= 1.1) & (depth > -0.1) & (depth < 1.1)       # beyond its edge, where interpolation reaches
    return torch.where(inside, grey(beam, depth), 0.0)[None, None]


def seen(fan, other, depth_scale, side=128):
    """The picture of one fan as the other shows it, [side, side]."""
    points = as_shown(pixels(side), double(*fan)[None], double(*other)[None], double(depth_scale))
    return torch.nn.functional.grid_sample(picture(fan, side), 2 * points - 1, align_corners=False)[0, 0]


@pytest.mark.parametrize("fan", FANS)
def test_the_same_fan_at_the_same_depth_leaves_every_point_where_it_is(fan):
    where = pixels(32)
    there = double(*FANS[fan])[None]
    assert torch.equal(as_shown(where, there, there, double(1.0)), where)
    nearly = as_shown(where, there, there, double(1 + 1e-9))
    beam, depth = polar(FANS[fan], 32)
    inside = (beam.abs() < 1) & (depth > 0) & (depth < 1)
    assert inside.any() and torch.allclose(nearly[0][inside], where[0][inside], atol=1e-6)


@pytest.mark.parametrize("fan", FANS)
@pytest.mark.parametrize("other", FANS)
@pytest.mark.parametrize("depth_scale", [1.0, 0.5, 2.0])
def test_tissue_is_seen_at_the_same_beam_and_depth_of_the_other_fan(fan, other, depth_scale):
    """With depth_scale 2 what lay at depth d is seen at d / 2, and beyond the middle there is nothing."""
    view = seen(FANS[fan], FANS[other], depth_scale)
    beam, depth = polar(FANS[other], 128)
    within = (beam.abs() < 0.97) & (depth > 0.02) & (depth * max(1, depth_scale) < 0.98)
    assert within.sum() > 1000
    assert (view - grey(beam, depth * depth_scale))[within].abs().max() < 0.01
    if fan != other or depth_scale != 1:
        beyond = (beam.abs() > 1 + 1.01 * EDGE) | (depth < -1.01 * EDGE) | (depth * max(1, depth_scale) > 1 + 1.01 * EDGE)
        assert beyond.any() and (view[beyond] == 0).all()


def test_a_fan_that_is_not_known_leaves_its_frame_as_it_is():
    """Beside one in the same batch that is known, drawn with a fan, without one, and with one of which a part is missing."""
    images, settings = frames(3), OFF | {"probe_probability": 1.0, "opening_scale": [0.5, 0.5], "depth_scale": [2.0, 2.0]}
    fan = torch.tensor([CONVEX, [math.nan] * 5, [*CONVEX[:4], math.nan]])
    view = applied(images, settings, fan)
    assert torch.allclose(view[1:], images[1:], atol=2e-5) and not torch.allclose(view[0], images[0], atol=0.1)
    assert torch.allclose(applied(images, settings), images, atol=2e-5)
    assert view.isfinite().all()


@pytest.mark.parametrize("fan", FANS)
def test_views_without_a_change_of_the_fan_leave_out_its_edge_too(fan):
    """A range of 1 to 1 is off: what is shown outside of the fan, such as its rounded corners, stays."""
    rng = np.random.default_rng(0)
    fans = torch.tensor(FANS[fan]) * torch.tensor(rng.uniform(0.95, 1.05, (50, 5)), dtype=torch.float32)
    images = frames(50, 24)
    assert torch.allclose(applied(images, OFF, fans), images, atol=2e-5)


def other(fan, opening=1.0, changed=False, convex=0.5):
    one = double(*fan)[None]
    return other_fan(one, double(opening), torch.tensor([changed]), double(convex))[0]


def box(fan):
    """left, top, right, bottom of a ring's piece, from points along its edge."""
    apex_x, apex_y, angle, near, far = (float(value) for value in fan)
    beams = np.linspace(-angle, angle, 2001)
    x = np.concatenate([apex_x + radius * np.sin(beams) for radius in (near, far)])
    y = np.concatenate([apex_y + radius * np.cos(beams) for radius in (near, far)])
    return np.array([x.min(), y.min(), x.max(), y.max()])


@pytest.mark.parametrize("fan", FANS)
def test_a_fan_without_a_change_is_the_same_fan(fan):
    assert torch.allclose(other(FANS[fan]), double(*FANS[fan]), atol=1e-12)


@pytest.mark.parametrize("fan", FANS)
@pytest.mark.parametrize("opening", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("changed", [False, True])
def test_another_fan_has_the_same_centre_and_longer_side(fan, opening, changed):
    before, after = box(FANS[fan]), box(other(FANS[fan], opening, changed))
    assert (before[:2] + before[2:]) / 2 == pytest.approx((after[:2] + after[2:]) / 2, abs=1e-6)
    assert max(before[2:] - before[:2]) == pytest.approx(max(after[2:] - after[:2]), abs=1e-6)


@pytest.mark.parametrize(("fan", "angle"), [("convex", LINEAR), ("narrow", LINEAR), ("wide", LINEAR), ("linear", 0.5)])
def test_another_probe_has_the_other_shape_and_its_width_at_mid_depth(fan, angle):
    def slim(fan):
        return fan[2] * (fan[3] + fan[4]) / 2 / (fan[4] - fan[3])

    new = other(FANS[fan], changed=True)
    assert float(new[2]) == pytest.approx(angle)
    assert float(slim(new)) == pytest.approx(slim(FANS[fan]), rel=1e-6)


def test_the_opening_is_a_factor_of_the_half_angle_and_keeps_the_radii_in_proportion():
    for factor in (0.6, 1.0, 1.5):
        new = other(CONVEX, opening=factor)
        assert float(new[2]) == pytest.approx(0.45 * factor) and float(new[4] / new[3]) == pytest.approx(1.05 / 0.3)
    assert float(other((0.5, 0.3, 1.2, 0.1, 0.5), opening=5.0)[2]) < math.pi / 2


# As the methods use them


def with_fans(folder, known=(True, False, True)):
    """A pretraining set of eight clips, of which some fans are known, and its training part."""
    write_us4(folder / "us4", [(3 + number % 3, ("a", "b", "")[number % 3], "train") for number in range(6)]
              + [(3, "a", "held_out")] * 2)
    table = store.table(folder / "us4/clips.csv")
    for number in range(len(table)):
        fan = FANS[list(FANS)[number % len(FANS)]] if known[number % len(known)] else [math.nan] * 5
        table.loc[number, store.FAN] = fan
    table.to_csv(folder / "us4/clips.csv", index=False)
    return [ClipSet(store.read(folder / "us4"), split, torch.device("cpu")) for split in ("train", "held_out")]


def build(name, train, meta, **changes):
    torch.manual_seed(0)
    views = {"pipeline": "semantic", "semantic": SEMANTIC | changes}
    return pretrain.build(name, {name: small(BLOCKS[name])}, views, Backbone("resnet18"), train, meta)


def test_the_clip_set_knows_the_fan_of_each_line_of_clips(workspace):
    train, held_out = with_fans(workspace)
    for clips in (train, held_out):
        for number, fan in enumerate(clips.fan):
            expected = torch.tensor(FANS[list(FANS)[number % 4]]) if number % 3 != 1 else torch.full((5,), math.nan)
            assert torch.allclose(fan, expected, equal_nan=True)
    write_us4(workspace / "old", [(3, "a", "train")])
    assert ClipSet(store.read("old"), "train", torch.device("cpu")).fan.isnan().all()


@pytest.mark.parametrize("pipeline", ["published", "semantic"])
@pytest.mark.parametrize("dim", [0, 1])
def test_augment_is_the_views_of_each_clips_frames_with_its_fan(workspace, pipeline, dim):
    train, held_out = with_fans(workspace)
    model = build("simclr", train, held_out, probe_probability=1.0)
    model.views = model.views if pipeline == "semantic" else ContrastiveViews(**BLOCKS["simclr"]["views"])
    clips = train.clips.take(torch.tensor([4, 0, 1, 2]))
    images = torch.rand(*((4, 3) if dim == 0 else (3, 4)), 1, 32, 32, generator=draw(1))
    ours = model.augment(images, clips, draw(2), dim)
    fan = [train.fan[int(clips.index[(place // 3) if dim == 0 else place % 4])] for place in range(12)]
    theirs = model.views.apply(images.flatten(0, 1), **model.views.draw(12, (32, 32), draw(2), torch.stack(fan)))
    assert ours.shape == images.shape and ours.isfinite().all()
    assert torch.equal(ours.flatten(0, 1), theirs)
    if pipeline == "published":
        assert torch.equal(ours.flatten(0, 1), model.views(images.flatten(0, 1), draw(2)))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_a_step_with_semantic_views(workspace, name):
    train, held_out = with_fans(workspace)
    model, generator = build(name, train, held_out), draw(3)
    assert isinstance(model.views, SemanticViews)
    assert (model.views.mean, model.views.std) == (BLOCKS[name]["views"]["mean"], BLOCKS[name]["views"]["std"])
    optimizer, schedule = optimizer_and_schedule(model.trained(), 10, **BLOCKS[name]["optimizer"])
    before = model.backbone.network.conv1.weight.detach().clone()
    batches = train.batches(3, model.pick, generator, steps=1)
    _, _, losses = pretrain.train_epoch(model, batches, optimizer, schedule, generator, model.loss, 0, 10)
    assert losses.isfinite().all() and not torch.equal(before, model.backbone.network.conv1.weight)


WRONG = {"probe_probability": 1.5, "convex_degrees": [25.0, 80.0], "opening_scale": [0.0, 1.0], "depth_scale": [1.2, 0.8],
         "crop_scale": [0.5, 1.5], "crop_ratio": [1.0], "flip_probability": -0.1, "rotation_degrees": -1.0,
         "shear_degrees": 85.0, "brightness": -0.1, "contrast": -0.1, "gamma": [-1.0, 1.0], "local_contrast": -0.5,
         "denoising": -0.1, "blur_probability": 2.0, "blur_sigma_px": ["a", "b"], "speckle": -0.2, "noise": -0.01}


def semantic(settings):
    return chosen_views(BLOCKS["uscl"]["views"], {"pipeline": "semantic", "semantic": settings}, "methods.uscl.views")


def test_there_is_a_wrong_value_of_each_parameter():
    assert set(WRONG) == set(SEMANTIC)
    assert isinstance(semantic(SEMANTIC), SemanticViews) and isinstance(semantic(OFF), SemanticViews)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("kind", ["range", "type", "missing"])
def test_impossible_settings_are_refused_by_name(name, kind):
    changed = {"range": SEMANTIC | {name: WRONG[name]}, "type": SEMANTIC | {name: "x"}}
    with pytest.raises(UserError, match=name):
        semantic(changed.get(kind, {key: value for key, value in SEMANTIC.items() if key != name}))


def test_a_key_too_many_and_an_unknown_pipeline_are_refused():
    with pytest.raises(UserError, match="views.semantic.zoom is not a parameter; choose from"):
        semantic(SEMANTIC | {"zoom": 1})
    with pytest.raises(UserError, match="views.pipeline is 'semantics'; it must be 'published' or 'semantic'"):
        chosen_views(BLOCKS["uscl"]["views"], {"pipeline": "semantics", "semantic": SEMANTIC}, "methods.uscl.views")
