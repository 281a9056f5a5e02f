"""Backbones: any torchvision classifier, its own key names, and what fine-tuning freezes."""

from types import SimpleNamespace

import pytest
import torch
import torchvision
from torchvision.models.vision_transformer import interpolate_embeddings

from stages.lib.networks.backbone import Backbone, Classifier, autocast
from stages.lib.params import UserError


@pytest.mark.parametrize(
    ("arch", "block"),
    [("resnet18", "layer4.1"), ("shufflenet_v2_x0_5", "conv5"), ("mobilenet_v3_small", "features.12"),
     ("convnext_tiny", "features.7.2"), ("swin_t", "features.7.1"), ("vit_b_32", "encoder.layers.encoder_layer_11")],
)
def test_features_and_last_block_of_several_families(arch, block):
    backbone = Backbone(arch).eval()
    feature = backbone(torch.rand(2, 1, 64, 64))
    assert feature.shape == (2, backbone.feature_width)
    assert backbone.last_block() is backbone.network.get_submodule(block)


def test_a_grey_frame_is_seen_as_torchvision_sees_it_in_three_channels():
    backbone = Backbone("resnet18").eval()
    whole = torchvision.models.resnet18().eval()
    whole.load_state_dict(backbone.network.state_dict(), strict=False)
    whole.fc = torch.nn.Identity()
    frames = torch.rand(2, 1, 64, 64)
    assert torch.allclose(backbone.double()(frames.double()), whole.double()(frames.double().repeat(1, 3, 1, 1)), atol=1e-9)


def test_features_are_in_the_precision_of_the_weights_whatever_the_hardware_computes_in():
    """Single-precision weights: bfloat16 inside may cost a hundredth of the features' size, no more, and never leaves it."""
    backbone = Backbone("resnet18").eval()
    frames = torch.rand(4, 1, 64, 64)
    single, double = backbone(frames), backbone.double()(frames.double())
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    assert (single - double).norm() < 0.03 * double.norm()


@pytest.mark.parametrize(("capability", "capable"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_single_precision(monkeypatch, capability, capable):
    """Compute capability 8.0 is the first with bfloat16 (CUDA C++ Programming Guide, Arithmetic Instructions)."""
    properties = SimpleNamespace(major=capability[0], minor=capability[1])
    for name, value in {"is_available": True, "current_device": 0, "get_device_properties": properties,
                        "_check_bf16_tensor_supported": True}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    wanted = []
    monkeypatch.setattr(torch, "autocast", lambda *_, enabled, **__: wanted.append(enabled))
    autocast(torch.device("cuda"))
    assert wanted == [capable]


@pytest.mark.parametrize(("part", "trained"), [("head", set()), ("last_block", {"layer4.1"}), ("all", None)])
def test_only_the_chosen_part_gets_a_gradient(part, trained):
    network = Classifier(Backbone("resnet18"), 3)
    network.train_only(part)
    network(torch.rand(4, 1, 64, 64)).sum().backward()
    for name, parameter in network.backbone.network.named_parameters():
        inside = trained is None or any(name.startswith(prefix) for prefix in trained)
        assert (parameter.grad is not None) == inside, name
    assert network.linear.weight.grad is not None


@pytest.mark.parametrize(("part", "first"), [("head", "linear"), ("last_block", "backbone.network.layer4.1")])
def test_what_is_frozen_builds_no_graph(part, first):
    """Every module before the trained part gives a tensor that no gradient could flow through."""
    network = Classifier(Backbone("resnet18"), 3)
    network.train_only(part)
    builds = {}

    def note(name):
        return lambda _module, _input, output: builds.update({name: output.requires_grad})

    for name, module in network.named_modules():
        module.register_forward_hook(note(name))
    network(torch.rand(4, 1, 64, 64))
    inside = {name for name in builds if name == first or name.startswith((f"{first}.", "linear"))}
    around = {"", "backbone", "backbone.network", "backbone.network.layer4"} if part == "last_block" else {""}
    after = {"backbone.network.avgpool", "backbone.network.fc"} if part == "last_block" else set()
    assert {name for name, graph in builds.items() if graph} == inside | around | after


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small"])
def test_the_weights_of_a_classifier_are_torchvisions_own(arch):
    network = Classifier(Backbone(arch), 3).eval()
    whole = torchvision.models.get_model(arch, num_classes=3).eval()
    whole.load_state_dict(network.weights())
    frames = torch.rand(2, 1, 64, 64)
    assert torch.allclose(network.double()(frames.double()), whole.double()(frames.double().repeat(1, 3, 1, 1)), atol=1e-9)


def test_a_vision_transformer_takes_frames_of_any_whole_number_of_patches():
    """At the size that torchvision builds it for, it is torchvision's; at others, position embeddings are interpolated."""
    backbone = Backbone("vit_b_32").eval()
    whole = torchvision.models.vit_b_32().eval()
    whole.load_state_dict(backbone.network.state_dict(), strict=False)
    whole.heads = torch.nn.Identity()
    frames = torch.rand(1, 1, 224, 224)
    assert torch.allclose(backbone.double()(frames.double()), whole.double()(frames.double().repeat(1, 3, 1, 1)), atol=1e-9)
    state = interpolate_embeddings(64, 32, {name: value.clone() for name, value in whole.state_dict().items()})
    small = torchvision.models.VisionTransformer(64, 32, 12, 12, 768, 3072).double().eval()
    small.heads = torch.nn.Identity()
    small.load_state_dict({name: value for name, value in state.items() if not name.startswith("heads")})
    frames = torch.rand(1, 1, 64, 64).double()
    assert torch.allclose(backbone(frames), small(frames.repeat(1, 3, 1, 1)), atol=1e-9)
    backbone(frames)[:, 0].sum().backward()         # the last layer norm makes the sum of all features constant
    assert backbone.network.encoder.pos_embedding.grad.abs().sum() > 0


@pytest.mark.parametrize(("arch", "size", "fits"), [("vit_b_32", 64, True), ("vit_b_32", 80, False), ("resnet18", 33, True),
                                                    ("alexnet", 32, False), ("alexnet", 64, True)])
def test_a_size_that_does_not_fit_is_named_with_those_that_do(arch, size, fits):
    backbone = Backbone(arch).train()
    if fits:
        backbone.require_size(size)
    else:
        with pytest.raises(UserError, match=rf"pretrain.arch '{arch}' cannot take frames of {size} px; .* 64, .*size_px"):
            backbone.require_size(size)
    assert backbone.training and backbone.network.training


def test_a_head_with_a_hidden_layer_has_torchvisions_names_and_drops_units_in_training_only(single_precision):
    network = Classifier(Backbone("resnet18"), 3, hidden_width=8, dropout=0.5).eval()
    assert {"fc.0.weight", "fc.0.bias", "fc.3.weight", "fc.3.bias"} < set(network.weights())
    plain = torchvision.models.resnet18()
    plain.fc = torch.nn.Sequential(torch.nn.Linear(512, 8), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3))
    plain.load_state_dict(network.weights())
    frames = torch.rand(4, 1, 32, 32)
    assert torch.allclose(network(frames), plain.eval()(frames.expand(-1, 3, -1, -1)), atol=1e-5)
    assert torch.equal(network(frames), network(frames))
    network.linear.train()
    assert not torch.equal(network(frames), network(frames))
