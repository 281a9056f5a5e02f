"""Every file of stages/methods/ by itself: built from its block of params.yaml, stepped, and looked at for gradients."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from conftest import write_us4

from stages import pretrain
from stages.lib import store
from stages.lib.clip_set import ClipSet
from stages.lib.networks import Backbone
from stages.lib.params import UserError
from stages.lib.training import descent

ROOT = Path(__file__).parents[1]
METHODS = sorted(path.stem for path in (ROOT / "stages/methods").glob("*.py"))
BLOCKS = yaml.safe_load((ROOT / "params.yaml").read_text())["methods"]
CLIPS = [(frames, label, "train") for frames, label in zip([1, 2, 3, 5, 4, 3, 7, 6], ["a", "b", "", "a"] * 2, strict=True)]


@pytest.fixture
def train(workspace):
    write_us4(workspace / "us4", CLIPS)
    return ClipSet(store.read("us4"), "train", torch.device("cpu"))


def build(name, train, **change):
    torch.manual_seed(0)
    return pretrain.build(name, {name: BLOCKS[name] | change}, Backbone("resnet18"), train)


def test_every_method_has_a_block_and_every_block_a_method():
    assert sorted(BLOCKS) == METHODS


@pytest.mark.parametrize("name", METHODS)
def test_the_block_is_the_signature(name):
    accepted = inspect.signature(import_module(f"stages.methods.{name}").Method).parameters
    own = {key for key, parameter in accepted.items() if parameter.kind is parameter.KEYWORD_ONLY}
    assert own == set(BLOCKS[name]) - {"optimizer", "views"}


@pytest.mark.parametrize("name", METHODS)
def test_steps_reach_every_trained_parameter_and_lower_the_loss(name, train, draw):
    model = build(name, train, views=BLOCKS[name]["views"] | {"brightness": 0.0, "contrast": 0.0})
    optimizer, schedule = descent(model.parameters(), 10**6, "adam", 1e-3, 0.0, 1.0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = []
    for epoch in range(25):
        batches = train.batches(len(train), model.pick, draw)
        losses.append(pretrain.train_epoch(model, batches, optimizer, schedule, epoch, draw)["loss"])
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), key
        moved = not torch.equal(parameter.detach(), before[key])
        assert moved == parameter.requires_grad, key
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize("name", METHODS)
def test_picked_frames_lie_within_their_clips(name, train, draw):
    model = build(name, train)
    for _ in range(50):
        picked = model.pick(train.clips, draw)
        assert (picked >= 0).all() and (picked < train.clips.count[:, None]).all()


@pytest.mark.parametrize("name", METHODS)
def test_a_key_too_many_too_few_or_a_zero_temperature_is_named(name, train):
    with pytest.raises(UserError, match=f"methods.{name}.colour is not a parameter"):
        build(name, train, colour=1)
    with pytest.raises(UserError, match="temperature is missing"):
        blocks = {name: {key: value for key, value in BLOCKS[name].items() if key != "temperature"}}
        pretrain.build(name, blocks, Backbone("resnet18"), train)
    with pytest.raises(UserError, match=f"methods.{name}.temperature is 0"):
        build(name, train, temperature=0)


def test_an_unknown_method_is_answered_with_the_choices(train):
    with pytest.raises(UserError, match="pretrain.method is 'uscll'; choose from .*simclr, uscl"):
        pretrain.build("uscll", BLOCKS, Backbone("resnet18"), train)
