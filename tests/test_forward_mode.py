"""The tangents of whole networks against torch's own forward mode."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call

from stages.lib.networks.backbone import Backbone
from stages.lib.networks.forward_mode import Recorded, tangents


def without_dropout(backbone):
    for module in backbone.modules():
        if "Dropout" in type(module).__name__ or "StochasticDepth" in type(module).__name__:
            module.p = 0.0
    return backbone.double().train()


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small", "vgg11", "vgg11_bn", "shufflenet_v2_x0_5", "densenet121"])
def test_tangents_equal_torchs_own(arch, draw):
    """Batch norm or none, before a convolution or behind it; convolutions with bias or in groups; ReLU in place behind them."""
    torch.manual_seed(0)
    backbone = without_dropout(Backbone(arch))
    frames = torch.rand(3, 1, 32, 32, generator=draw, dtype=torch.float64)
    values = {name: value.detach() for name, value in backbone.named_parameters()}
    directions = {name: torch.randn(value.shape, generator=draw, dtype=value.dtype) for name, value in values.items()}
    before = {name: value.clone() for name, value in backbone.named_buffers()}

    def run():
        with torch.no_grad():
            dual = {name: forward_ad.make_dual(value, directions[name]) for name, value in values.items()}
        buffers = {name: value.clone() for name, value in before.items()}
        return forward_ad.unpack_dual(functional_call(backbone, dual | buffers, (frames,)))

    with torch.no_grad(), forward_ad.dual_level():
        expected = run()
    with Recorded() as recorded:
        plain = functional_call(backbone, {name: value.clone() for name, value in before.items()}, (frames,))
    with tangents(recorded):
        ours = run()
    assert torch.allclose(ours.primal, expected.primal, atol=1e-12) and torch.allclose(ours.primal, plain, atol=1e-12)
    assert (ours.tangent - expected.tangent).abs().max() < 1e-10 * expected.tangent.abs().max()
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())


def test_convolutions_are_not_computed_again(monkeypatch):
    """The recorded values are what comes out: spoilt ones show."""
    backbone = without_dropout(Backbone("resnet18"))
    frames = torch.rand(2, 1, 32, 32, dtype=torch.float64)
    values = {name: value.detach() for name, value in backbone.named_parameters()}
    with Recorded() as recorded:
        plain = backbone(frames)
    assert len(recorded.outputs) == 20
    recorded.outputs = [(output.clone().zero_(), 1) for output, _ in recorded.outputs]
    with tangents(recorded):
        dual = {name: forward_ad.make_dual(value, torch.ones_like(value)) for name, value in values.items()}
        spoilt = forward_ad.unpack_dual(functional_call(backbone, dual, (frames,))).primal
    assert not torch.allclose(spoilt, plain)
