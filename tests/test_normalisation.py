"""Mean and std travel with the weights: our own files, published layouts, ImageNet; numbers overrule."""

import pytest
import torch
from safetensors.torch import save_file
from test_layouts import LAYOUTS, moco, parallel, source, uscl
from torchvision.transforms import Normalize

from stages.lib.networks import checkpoint
from stages.lib.networks.backbone import Backbone
from stages.lib.networks.normalisation import filled_in, normalisation
from stages.lib.params import UserError

VIEWS = {"crop_scale": [0.8, 1.0], "mean": None, "std": None}


@pytest.fixture
def backbone():
    return Backbone("resnet18")


def of_grey(mean, std):
    """The constants that normalise a grey frame to the mean over channels of what torchvision makes of three equal channels."""
    grey = torch.linspace(0, 1, 7, dtype=torch.float64).expand(3, 1, 7)
    channels = Normalize(mean, std)(grey)
    return channels.mean(0)[0]


def test_our_own_file_says_how_its_input_was_normalised(workspace, backbone):
    weights = backbone.network.state_dict()
    checkpoint.write(weights, {"mean": 0.31, "std": 0.17})
    checkpoint.write(weights, {"mean": 0.2, "std": 0.1}, workspace / "models/other.safetensors")
    assert normalisation("pretrained", backbone) == (0.31, 0.17)
    assert normalisation("models/other.safetensors", backbone) == (0.2, 0.1)
    assert filled_in(VIEWS, "pretrained", backbone) == VIEWS | {"mean": 0.31, "std": 0.17}


@pytest.mark.parametrize(("given", "expected"), [({"mean": 0.7}, (0.7, 0.17)), ({"std": 0.9}, (0.31, 0.9)),
                                                 ({"mean": 0.0, "std": 1.0}, (0.0, 1.0))])  # fmt: skip
def test_a_number_overrules(workspace, backbone, given, expected):
    checkpoint.write(backbone.network.state_dict(), {"mean": 0.31, "std": 0.17})
    found = filled_in(VIEWS | given, "pretrained", backbone)
    assert (found["mean"], found["std"]) == expected and found["crop_scale"] == [0.8, 1.0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout_has_the_constants_of_its_authors_code(tmp_path, backbone, layout):
    """USCL 0.5 and 0.25, Meta-USCL 0.18 and 0.24, all others ImageNet's three channels."""
    torch.save(LAYOUTS[layout][0](source("resnet18")), tmp_path / "w.pth")
    found = normalisation(str(tmp_path / "w.pth"), backbone)
    known = {"uscl": (0.5, 0.25), "uscl_simclr": (0.5, 0.25), "meta_uscl": (0.18, 0.24)}
    if layout in known:
        assert found == known[layout]
    else:
        grey = torch.linspace(0, 1, 7, dtype=torch.float64)
        expected = of_grey([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        assert torch.allclose((grey - found.mean) / found.std, expected, atol=5e-3)
        assert found == normalisation("imagenet", backbone)


def test_a_file_that_does_not_tell_is_refused_unless_both_numbers_are_given(tmp_path, backbone):
    path = str(tmp_path / "w.safetensors")
    state = uscl(source("resnet18"))
    save_file({key: value.contiguous() for key, value in state.items() if key.startswith("features.")}, path)
    with pytest.raises(UserError, match="does not tell the mean and std of the frames"):
        filled_in(VIEWS, path, backbone)
    numbers = VIEWS | {"mean": 0.5, "std": 0.2}
    assert filled_in(numbers, path, backbone) == numbers


def test_a_safetensors_file_of_others_is_told_by_its_layout(tmp_path, backbone):
    path = str(tmp_path / "w.safetensors")
    save_file({key: value.contiguous() for key, value in parallel(moco(source("resnet18"))).items()}, path)
    assert normalisation(path, backbone) == normalisation("imagenet", backbone)


@pytest.mark.parametrize("content", [b"", b"hello world\n", b"\x08" + bytes(20)])
def test_safetensors_that_are_none_are_named(tmp_path, backbone, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="w.safetensors cannot be read as weights"):
        filled_in(VIEWS, str(path), backbone)


def test_an_unknown_choice_is_answered_with_the_choices(backbone):
    with pytest.raises(UserError, match="finetune.init is 'imagenett'; choose from random, imagenet"):
        normalisation("imagenett", backbone, "finetune.init")
