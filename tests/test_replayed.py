"""Training passes as CUDA graphs: which passes are replayed, on any device, and that replaying changes no bit, on a GPU."""

from copy import deepcopy

import pandas as pd
import pytest
import torch
from conftest import write_us4
from safetensors.torch import load_file
from test_pretrain import CLIPS, RUNS, SETTINGS
from torch import nn

from stages import pretrain
from stages.lib.networks import replayed
from stages.lib.networks.backbone import Backbone
from stages.lib.networks.forward_mode import Recorded
from stages.lib.networks.replayed import Replayed


@pytest.fixture
def passes(monkeypatch):
    """A network on what says that it is a GPU; a graph is a function that notes the number of its images."""
    replays = []

    def capture(network, images):
        def graph(images):
            replays.append(len(images))
            return network(images)

        return graph

    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(replayed, "capture", capture)
    network, run = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Dropout(0.5)), Replayed()
    return network, run, replays


def train(network, run, images):
    run(network, torch.zeros(images, 3, 8, 8)).sum().backward()


def test_a_pass_like_the_one_before_is_replayed(passes):
    network, run, replays = passes
    for images in (4, 4, 4, 3, 4, 4, 3, 3, 4, 4):       # rests of epochs do not replace the graph, unless they come twice
        train(network, run, images)
    assert replays == [4, 4, 4, 4, 3, 4]


def test_a_second_pass_before_the_backward_pass_is_not_replayed(passes):
    network, run, replays = passes
    train(network, run, 4)
    images = torch.zeros(4, 3, 8, 8)
    loss = run(network, images).sum() + run(network, images).sum()
    assert replays == [4]
    loss.backward()
    train(network, run, 4)
    assert replays == [4, 4]


def test_a_change_of_what_trains_or_of_the_weights_is_another_pass(passes):
    network, run, replays = passes
    changes = [lambda: None, lambda: network[0].bias.requires_grad_(False), lambda: network[2].eval(),
               lambda: setattr(network[0], "weight", nn.Parameter(network[0].weight.detach().clone()))]
    for change in changes:
        change()
        before = len(replays)
        train(network, run, 4)
        assert len(replays) == before
        train(network, run, 4)
        assert len(replays) == before + 1


@pytest.mark.parametrize("case", ["evaluation", "no gradient", "frozen", "watched", "functional", "ranks"])
def test_what_must_run_kernel_by_kernel_does(passes, monkeypatch, case):
    network, run, replays = passes
    images = torch.zeros(4, 3, 8, 8)
    if case == "evaluation":
        network.eval()
    if case == "frozen":
        network.requires_grad_(False)
    if case == "ranks":
        monkeypatch.setattr(replayed.distributed, "size", lambda: 2)
    for _ in range(3):
        if case == "no gradient":
            with torch.no_grad():
                run(network, images)
        elif case == "watched":
            with Recorded():
                run(network, images)
        elif case == "functional":
            part = nn.Module()
            part.network, part.forward = network, lambda images: run(network, images)
            given = {f"network.{name}": value.detach().requires_grad_() for name, value in network.named_parameters()}
            torch.func.functional_call(part, given, (images,))
        else:
            run(network, images)
    assert replays == []


def test_a_copy_of_a_backbone_begins_without_a_graph(passes):
    backbone = Backbone("resnet18")
    backbone.run.captured = backbone.run.graph = "of the first"
    assert deepcopy(backbone).run.captured is deepcopy(backbone).run.graph is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("method", "arch"), RUNS)
def test_replaying_changes_no_bit(workspace, monkeypatch, method, arch):
    """Of a run of two batches an epoch of four clips; a count says that passes were replayed."""
    write_us4(workspace / "data/us4", CLIPS)
    monkeypatch.setenv("SONOPAIR_DEVICE", "cuda:0")
    settings = SETTINGS | {"method": method, "arch": arch, "steps_per_epoch": 4}
    captured, found, real = [], [], replayed.capture
    monkeypatch.setattr(replayed, "capture", lambda *given: captured.append(real(*given)) or captured[-1])
    for kind in (Replayed._kind, lambda *_: None):
        monkeypatch.setattr(Replayed, "_kind", kind)
        pretrain.main(**settings)
        found.append((load_file("models/pretrained.safetensors"), pd.read_csv("reports/pretrain.csv")))
    assert all(graph is not None for graph in captured) and len(captured) == (method != "meta_uscl")
    assert all(torch.equal(found[0][0][name], found[1][0][name]) for name in found[0][0])
    pd.testing.assert_frame_equal(found[0][1], found[1][1], check_exact=True)
