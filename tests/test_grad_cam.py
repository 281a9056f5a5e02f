"""Grad-CAM against closed forms: where global averaging and one linear layer follow, it is CAM; against a loop of nudges."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stages.lib.networks.backbone import Backbone, Classifier
from stages.lib.networks.grad_cam import grad_cam
from stages.lib.params import UserError


class Average(nn.Module):
    """Convolution, then the mean over all places, then one linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3, stride=2)
        self.linear = nn.Linear(5, 3)

    def forward(self, frames):
        return self.linear(self.conv(frames).mean((2, 3)))


class Quadratic(Average):
    """One whose gradient differs from place to place and from frame to frame."""

    def forward(self, frames):
        return self.linear(self.conv(frames).flatten(2).square().sum(2).sqrt())


@pytest.fixture
def frames(draw):
    return torch.rand(4, 1, 17, 21, generator=draw)


def test_with_global_averaging_it_is_the_class_activation_map(frames):
    """Zhou et al. 2016: the channels weighted by the class's weights, here divided by the number of places."""
    network, classes = Average().eval(), torch.tensor([2, 0, 1, 2])
    maps = network.conv(frames)
    cam = torch.einsum("bc,bchw->bhw", network.linear.weight[classes], maps).relu() / (maps.shape[2] * maps.shape[3])
    expected = F.interpolate(cam[:, None], (17, 21), mode="bilinear")[:, 0]
    assert expected.max() > 0 and (expected == 0).any()
    torch.testing.assert_close(grad_cam(network, network.conv, frames, classes), expected)


def test_it_is_a_loop_over_channels_whose_weights_are_finite_differences(frames):
    network, classes = Quadratic().double().eval(), torch.tensor([0, 1, 2, 1])
    found = grad_cam(network, network.conv, frames.double(), classes)
    maps, step = network.conv(frames.double()).detach(), 1e-6
    for sample, number in enumerate(classes):
        total = torch.zeros(maps.shape[2:])
        for channel in range(maps.shape[1]):
            slope = 0.0
            for y in range(maps.shape[2]):
                for x in range(maps.shape[3]):
                    nudged = maps[sample].clone()
                    nudged[channel, y, x] += step
                    scores = [network.linear(one.flatten(1).square().sum(1).sqrt())[number] for one in (nudged, maps[sample])]
                    slope += (scores[0] - scores[1]).item() / step
            total += slope / maps.shape[2] / maps.shape[3] * maps[sample, channel]
        expected = F.interpolate(total.relu()[None, None], (17, 21), mode="bilinear")[0, 0]
        torch.testing.assert_close(found[sample], expected.float(), atol=1e-5, rtol=1e-3, check_dtype=False)


@pytest.mark.parametrize("arch", ["resnet18", "densenet121", "mobilenet_v3_small"])
def test_real_networks_get_a_map_and_keep_weights_gradients_and_frozen_parts(arch, draw):
    torch.manual_seed(0)        # with other weights a map may be empty for both classes
    network = Classifier(Backbone(arch), 3).eval().requires_grad_(False)
    frames, classes = torch.rand(2, 1, 64, 64, generator=draw), torch.tensor([0, 2])
    with torch.no_grad():
        before = network(frames)
        maps = grad_cam(network, network.backbone.last_block(), frames, classes)
        assert torch.equal(network(frames), before)         # the hook is gone
    assert maps.shape == (2, 64, 64) and maps.min() >= 0 and maps.dtype == torch.float32
    other = grad_cam(network, network.backbone.last_block(), frames, torch.tensor([1, 2]))
    assert not torch.equal(maps[0], other[0]) and torch.equal(maps[1], other[1])
    assert all(parameter.grad is None for parameter in network.parameters())


class Attention(nn.Module):
    """As in Swin: what it gives has four dimensions, but the channels are the last."""

    def __init__(self):
        super().__init__()
        self.block = nn.Linear(1, 5)
        self.linear = nn.Linear(5, 3)

    def forward(self, frames):
        return self.linear(self.block(frames.movedim(1, -1)).mean((1, 2)))


def test_a_network_without_feature_maps_is_refused():
    flat, attention = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), Attention()
    for network, block in ((flat, flat[1]), (attention, attention.block)):
        with pytest.raises(UserError, match="Grad-CAM needs feature maps"):
            grad_cam(network, block, torch.rand(1, 1, 4, 4), torch.tensor([0]))
