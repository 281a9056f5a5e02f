"""Published checkpoints: files of their structure, made from torchvision networks, give the source network's features."""

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from test_initial import initialise, sentence
from torch import nn

from stages.lib.networks.backbone import Backbone


def source(arch):
    """A torchvision network whose running statistics are not the initial ones."""
    torch.manual_seed(3)
    network = torchvision.models.get_model(arch, weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval().to(memory_format=torch.channels_last)     # as a backbone's: the same rounding


def uscl(network, **heads):
    """All parts of the network but the last in a Sequential, and heads beside it."""
    width = network.fc.in_features
    sizes = heads or {"linear": (width, 256), "fc": (256, 12)}
    parts = {"features": nn.Sequential(*list(network.children())[:-1])} | {name: nn.Linear(*sizes[name]) for name in sizes}
    return nn.ModuleDict(parts).state_dict()


def moco(network, head=nn.Linear):
    """Query and key encoder with heads in the classifier's place, and a queue."""
    state = network.state_dict()
    backbone = {key: value for key, value in state.items() if not key.startswith("fc.")}
    pair = nn.ModuleDict({"encoder_q": nn.ModuleDict({"fc": head(network.fc.in_features, 128)}),
                          "encoder_k": nn.ModuleDict({"fc": head(network.fc.in_features, 128)})}).state_dict()
    pair |= {f"encoder_q.{key}": value for key, value in backbone.items()}
    pair |= {f"encoder_k.{key}": torch.zeros_like(value) for key, value in backbone.items()}
    return pair | {"queue": torch.randn(128, 64), "queue_ptr": torch.zeros(1, dtype=torch.long)}


def mlp(inside, outside):
    return nn.Sequential(nn.Linear(inside, inside), nn.ReLU(), nn.Linear(inside, outside))


def ucl(network):
    """MoCo's, with a second pair of heads, and queues of the cycle and of negatives."""
    heads = nn.ModuleDict({"q_cycle_fc": mlp(network.fc.in_features, 128), "k_cycle_fc": mlp(network.fc.in_features, 128)})
    buffers = ["queue_cycle", "queue_cycle_ptr", "queue_labels", "queue_indices", "neg_vecs_labels", "label_ptr", "negatives",
               "negative_queue_ptr"]
    return moco(network, mlp) | heads.state_dict() | {name: torch.zeros(1, 8) for name in buffers}


def parallel(state):
    return {f"module.{key}": value for key, value in state.items()}


def run(state, key="state_dict"):
    """A training run's file: epoch, name, and the state of an optimiser with its steps."""
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    return {"epoch": 50, "arch": "resnet", key: state, "optimizer": optimizer.state_dict(), "best_acc1": torch.tensor(94.2)}


LAYOUTS = {
    "uscl": (uscl, "fc (2), linear (2)"),
    "uscl_simclr": (lambda n: uscl(n, l1=(9, 9), l2=(9, 4), fc=(4, 2), fc1=(9, 9), fc2=(9, 2)),
                    "fc (2), fc1 (2), fc2 (2), l1 (2), l2 (2)"),
    "meta_uscl": (lambda n: run(uscl(n, l1=(9, 9), l2=(9, 4))),
                  "arch (1), best_acc1 (1), epoch (1), l1 (2), l2 (2), optimizer (1)"),
    "ucl": (lambda n: run(parallel(ucl(n))), "k_cycle_fc (4), label_ptr (1), neg_vecs_labels (1), negative_queue_ptr (1)"),
    "moco_v1": (lambda n: run(parallel(moco(n))), "epoch (1), fc (2), optimizer (1), queue (1), queue_ptr (1)"),
    "moco_v2": (lambda n: run(parallel(moco(n, mlp))), "epoch (1), fc (4), optimizer (1), queue (1), queue_ptr (1)"),
    "moco_alone": (moco, "encoder_k ("),
    "torchvision": (lambda n: n.state_dict(), "fc (2)"),
    "torchvision_parallel": (lambda n: parallel(n.state_dict()), "fc (2)"),
    "torchvision_run": (lambda n: run(n.state_dict(), "model"), "fc (2), optimizer (1)"),
}


@pytest.mark.parametrize(("arch", "layout"), [*(("resnet18", layout) for layout in LAYOUTS), ("resnet50", "meta_uscl"),
                                              ("resnet50", "moco_v2")])  # fmt: skip
def test_a_published_layout_gives_the_features_of_its_network(tmp_path, capsys, arch, layout):
    network, (structure, dropped) = source(arch), LAYOUTS[layout]
    path = tmp_path / "best_model.pth"
    torch.save(structure(network), path)
    backbone = initialise(Backbone(arch), str(path)).network.eval()
    pictures = torch.rand(2, 3, 64, 64)
    network.fc = nn.Identity()
    with torch.no_grad():
        assert torch.equal(backbone(pictures), network(pictures))
    said = capsys.readouterr().out
    assert said.startswith(f"{path}: every weight of {arch} found; not used: ") and dropped in said and said.count("\n") == 1
    initialise(Backbone(arch), str(path))
    assert capsys.readouterr().out == ""        # every fold loads it; one line is enough


def test_a_checkpoint_of_half_precision_and_of_torch_before_1_6_loads(tmp_path):
    """apex wrote the one, the old file format is that of UCL's time."""
    state = {key: value.half() if value.is_floating_point() else value for key, value in uscl(source("resnet18")).items()}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    loaded = initialise(Backbone("resnet18"), str(tmp_path / "old.pth")).network.state_dict()
    assert loaded["conv1.weight"].dtype == torch.float32
    assert torch.equal(loaded["layer4.1.conv2.weight"], state["features.7.1.conv2.weight"].float())


def test_parts_are_numbered_in_the_order_of_the_network_also_of_another_architecture(tmp_path):
    network = torchvision.models.shufflenet_v2_x0_5().eval()
    state = nn.ModuleDict({"features": nn.Sequential(*list(network.children())[:-1]), "l1": nn.Linear(3, 3)}).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    loaded = initialise(Backbone("shufflenet_v2_x0_5"), str(tmp_path / "w.safetensors")).network.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in network.state_dict().items() if not key.startswith("fc."))


def test_networks_of_torchvision_whose_own_names_begin_with_features_are_left_as_they_are(tmp_path):
    state = torchvision.models.densenet121().state_dict()
    torch.save(state, tmp_path / "w.pth")
    loaded = initialise(Backbone("densenet121"), str(tmp_path / "w.pth")).network.state_dict()
    assert torch.equal(loaded["features.denseblock4.denselayer16.conv2.weight"],
                       state["features.denseblock4.denselayer16.conv2.weight"])


def changed(state, key, value=None):
    """The state without the key, or with another value of it."""
    rest = {name: tensor for name, tensor in state.items() if name != key}
    return rest if value is None else rest | {key: value}


@pytest.mark.parametrize(("structure", "key", "its_name"), [
    (uscl, "features.4.0.bn1.running_mean", "layer1.0.bn1.running_mean"),
    (lambda n: parallel(ucl(n)), "module.encoder_q.conv1.weight", "conv1.weight"),
    (lambda n: parallel(moco(n)), "module.encoder_q.layer4.1.bn2.bias", "layer4.1.bn2.bias"),
])  # fmt: skip
def test_a_missing_key_and_another_shape_are_named_as_torchvision_names_them(tmp_path, structure, key, its_name):
    state, path = structure(source("resnet18")), tmp_path / "w.pth"
    assert key in state
    torch.save({"state_dict": changed(state, key)}, path)
    assert sentence(str(path)) == f"{path} does not fit resnet18: it misses {its_name} (1 in all)"
    torch.save({"state_dict": changed(state, key, torch.zeros(7))}, path)
    assert sentence(str(path)) == f"{path} does not fit resnet18: {its_name} has another shape"


@pytest.mark.parametrize(("structure", "key"), [
    (uscl, "attention.weight"), (uscl, "features.2.weight"), (uscl, "conv1.weight"), (uscl, "l3.weight"),
    (lambda n: parallel(moco(n)), "module.conv1.weight"), (lambda n: parallel(moco(n)), "module.encoder_q.layer5.weight"),
    (ucl, "encoder.weight"), (ucl, "negatives_2"), (lambda n: n.state_dict(), "features_2.weight"),
])  # fmt: skip
def test_a_key_that_the_layout_does_not_have_is_refused(tmp_path, structure, key):
    path = tmp_path / "w.pth"
    torch.save(structure(source("resnet18")) | {key: torch.zeros(3)}, path)
    name = {"features.2.weight": "relu.weight"}.get(key, key.removeprefix("module.").removeprefix("encoder_q."))
    assert sentence(str(path)) == f"{path} does not fit resnet18: it has an unknown key, {name} (1 in all)"


def test_the_key_encoder_alone_and_a_weight_network_are_no_backbone(tmp_path):
    keys = {key: value for key, value in moco(source("resnet18")).items() if not key.startswith("encoder_q.")}
    torch.save(keys, tmp_path / "keys.pth")
    assert "does not fit resnet18: it misses" in sentence(str(tmp_path / "keys.pth"))
    weights = nn.ModuleDict({"linear1": nn.Linear(1024, 64), "linear2": nn.Linear(64, 1)}).state_dict()
    torch.save({"state_dict": weights, "optimizer": {}}, tmp_path / "best_cmwnet.pth")
    assert "does not fit resnet18: it misses" in sentence(str(tmp_path / "best_cmwnet.pth"))


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"state_dict": {"conv1.weight": 1}}, {"epoch": 3}, {}])
def test_a_checkpoint_without_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    assert sentence(str(tmp_path / "w.pth")).startswith(f"{tmp_path / 'w.pth'} ")
