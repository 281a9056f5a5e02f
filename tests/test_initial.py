"""First weights of a backbone: files under torchvision's names, ImageNet weights, and what is refused in one sentence."""

import email.message
import io
import pickle
import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from stages.lib.networks import initial
from stages.lib.networks.backbone import Backbone
from stages.lib.params import UserError

CLASSIFIERS = [("resnet18", "fc."), ("efficientnet_b0", "classifier.1."), ("mobilenet_v3_large", "classifier.3.")]
URL = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url


def initialise(backbone, init):
    return initial.initialise(backbone, init, "finetune.init")


def published(arch="resnet18", seed=5):
    """Weights as torchvision would publish them, with running statistics that are not the initial ones."""
    torch.manual_seed(seed)
    state = torchvision.models.get_model(arch, weights=None).state_dict()
    return {key: torch.rand(value.shape) if value.dtype.is_floating_point else value + 7 for key, value in state.items()}


def save(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


def sentence(init, arch="resnet18"):
    """The one sentence that refuses `init`."""
    backbone = Backbone(arch)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(UserError) as error:
        initialise(backbone, init)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    return str(error.value)


@pytest.mark.parametrize(("arch", "classifier"), CLASSIFIERS)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("with_classifier", [True, False])
def test_a_file_of_torchvision_weights_loads_exactly_but_its_last_layer(tmp_path, arch, classifier, suffix, with_classifier):
    """Of MobileNet's classifier only the last of two linear layers goes."""
    state = published(arch)
    wanted = {key: value for key, value in state.items() if not key.startswith(classifier)}
    assert len(state) - len(wanted) == 2
    backbone = Backbone(arch)
    assert initialise(backbone, save(state if with_classifier else wanted, tmp_path / f"w.{suffix}")) is backbone
    loaded = backbone.network.state_dict()
    assert loaded.keys() == wanted.keys()
    assert all(torch.equal(loaded[key], value) for key, value in wanted.items())


def test_random_leaves_the_weights_as_they_are():
    backbone = Backbone("resnet18")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    assert initialise(backbone, "random") is backbone
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_missing_key_an_extra_key_and_another_shape_are_named(tmp_path, suffix):
    state = published()
    few = {key: value for key, value in state.items() if not key.startswith("layer1.0.conv1")}
    assert "resnet18: it misses layer1.0.conv1.weight (1 in all)" in sentence(save(few, tmp_path / f"few.{suffix}"))
    many = state | {"layer5.weight": torch.zeros(3)}
    assert "resnet18: it has an unknown key, layer5.weight (1 in all)" in sentence(save(many, tmp_path / f"many.{suffix}"))
    grey = state | {"conv1.weight": state["conv1.weight"].mean(1, keepdim=True)}
    answer = sentence(save(grey, tmp_path / f"grey.{suffix}"))
    assert str(tmp_path / f"grey.{suffix}") in answer and "resnet18: conv1.weight has another shape" in answer


def test_weights_of_another_architecture_are_refused_with_three_keys_and_their_number(tmp_path):
    wanted = [key for key in Backbone("resnet18").network.state_dict() if not key.endswith("num_batches_tracked")]
    state = published("shufflenet_v2_x0_5")
    assert f"({len(wanted)} in all)" in sentence(save(state, tmp_path / "other.pth"))


@pytest.mark.parametrize("init", ["imagnet", "nowhere/weights.pth", "."])
def test_no_such_file_is_answered_with_the_choices(init):
    assert sentence(init).startswith(f"params.yaml: finetune.init is {init!r}; choose from random, imagenet, pretrained")


BROKEN = {"html": b"<html>404</html>", "zeros": bytes(100), "zip": b"PK\x03\x04" + bytes(50), "number": pickle.dumps(5)}
BROKEN |= {"text": b"hello world\n", "empty": b"", "table": b"a,b,c\n1,2,3\n"}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_no_weights_is_named(tmp_path, kind):
    path = tmp_path / "weights.pth"
    path.write_bytes(BROKEN[kind])
    assert sentence(str(path)).startswith(f"{path} cannot be read as weights (")


@pytest.mark.parametrize("kind", BROKEN)
def test_safetensors_that_are_none_are_named(tmp_path, kind):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(BROKEN[kind])
    assert sentence(str(path)).startswith(f"{path} cannot be read as weights (")


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], {0: torch.zeros(3)}, "numbers by name"])
def test_a_torch_file_of_something_else_is_named(tmp_path, content):
    path = save(dict.fromkeys(published(), 1.0) if isinstance(content, str) else content, tmp_path / "weights.pth")
    assert sentence(path).startswith(path)


class Runs:
    """Unpickled without care, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return Path.mkdir, (self.folder,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_file_is_not_run(tmp_path, write):
    path, made = tmp_path / "weights.pth", tmp_path / "made"
    write(published() | {"conv1.weight": Runs(made)}, path)
    assert sentence(str(path)).startswith(f"{path} cannot be read as weights (")
    assert not made.exists()
    if write is torch.save:
        torch.load(path, weights_only=False)    # the file would have run it
        assert made.exists()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """torch's own, empty, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)

    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_imagenet_weights_come_from_the_cache(cache):
    """The hash is that of the download, not of what lies in the cache."""
    state = published()
    save(state, cache / URL.rpartition("/")[2])
    loaded = initialise(Backbone("resnet18"), "imagenet").network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_imagenet_weights_that_cannot_be_fetched_are_named_by_their_address(cache, arch):
    """The first version's, also where torchvision has a second."""
    answer = sentence("imagenet", arch)
    url = torchvision.models.get_model_weights(arch).IMAGENET1K_V1.url
    assert f"download {url} " in answer and arch in answer and "no route to host" in answer


def test_imagenet_weights_that_arrive_damaged_are_named_by_their_address(cache, monkeypatch):
    class Answer(io.BytesIO):
        info = email.message.Message    # no headers

    monkeypatch.setattr(torch.hub, "urlopen", lambda *_, **__: Answer(b"<html>log in to the hotel's network</html>"))
    assert URL in sentence("imagenet")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_from_before_batches_were_counted_load_as_torch_itself_loads_them(tmp_path, suffix):
    state = {key: value for key, value in published().items() if not key.endswith("num_batches_tracked")}
    torchvision.models.resnet18().load_state_dict(state)        # strictly
    loaded = initialise(Backbone("resnet18"), save(state, tmp_path / f"old.{suffix}")).network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items() if key in loaded)


def test_weights_of_mnasnet_load(tmp_path):
    """torchvision's class asks for metadata of the state, which a plain dict, and so safetensors, does not have."""
    state = torchvision.models.mnasnet0_5().state_dict()
    loaded = initialise(Backbone("mnasnet0_5"), save(state, tmp_path / "weights.pth")).network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_imagenet_weights_of_densenet_load(cache):
    """They have norm.1.weight where the network has norm1.weight."""
    state = published("densenet121")
    wanted = Backbone("densenet121").network.state_dict()
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    for part in ("norm1", "norm2", "conv1", "conv2"):
        old = {key.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.") if "denselayer" in key else key: value
               for key, value in old.items()}  # fmt: skip
    save(old, cache / torchvision.models.DenseNet121_Weights.IMAGENET1K_V1.url.rpartition("/")[2])
    theirs = torchvision.models.densenet121(weights="IMAGENET1K_V1").state_dict()
    loaded = initialise(Backbone("densenet121"), "imagenet").network.state_dict()
    assert loaded.keys() == wanted.keys() and all(torch.equal(value, theirs[key]) for key, value in loaded.items())
