"""Every file of stages/methods/ by itself: built from its block of params.yaml, stepped, and looked at for gradients."""

import inspect
import math
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from conftest import write_us4
from torch import nn

from stages import pretrain
from stages.lib.clips import store
from stages.lib.networks.backbone import Backbone
from stages.lib.params import UserError
from stages.lib.pretraining.clip_set import ClipSet
from stages.lib.training.optimizer import optimizer_and_schedule
from stages.lib.training.semantic_views import chosen_views

ROOT = Path(__file__).parents[1]
METHODS = sorted(path.stem for path in (ROOT / "stages/methods").glob("*.py"))
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
BLOCKS = PARAMS["methods"]
CLIPS = [(frames, label, "train") for frames, label in zip([1, 2, 3, 5, 4, 3, 7, 6], ["a", "b", "", "a"] * 2, strict=True)]
CLIPS += [(3, "a", "held_out"), (1, "", "held_out"), (9, "b", "held_out")]
PUBLISHED = PARAMS["views"] | {"pipeline": "published"}
SMALL = {"embedding_width": 32, "hidden_width": 32}  # of heads that are wide when published


def clip_sets(workspace, clips=CLIPS):
    write_us4(workspace / "us4", clips)
    return [ClipSet(store.read("us4"), split, torch.device("cpu")) for split in ("train", "held_out")]


@pytest.fixture
def train(workspace):
    return clip_sets(workspace)[0]


@pytest.fixture
def held_out(train):
    return ClipSet(store.read("us4"), "held_out", torch.device("cpu"))


def small(block):
    return block | {key: value for key, value in SMALL.items() if key in block}


def shallow():
    """ResNet-18 up to its first stage, which learns quickly: what a method computes does not depend on how deep it is."""
    backbone = Backbone("resnet18")
    backbone.network.layer2 = backbone.network.layer3 = backbone.network.layer4 = nn.Identity()
    backbone.feature_width = 64
    return backbone


def build(name, train, meta_set=None, **change):
    """The method with its block of params.yaml, narrow where that is published very wide; the training clips as meta set."""
    torch.manual_seed(0)
    return pretrain.build(name, {name: small(BLOCKS[name]) | change}, PUBLISHED, shallow(), train, meta_set or train)


def test_every_method_has_a_block_and_every_block_a_method():
    assert sorted(BLOCKS) == METHODS


@pytest.mark.parametrize("name", METHODS)
def test_the_block_is_the_signature(name):
    accepted = inspect.signature(import_module(f"stages.methods.{name}").Method).parameters
    own = {key for key, parameter in accepted.items() if parameter.kind is parameter.KEYWORD_ONLY}
    assert own == set(BLOCKS[name]) - {"optimizer", "views", "keep"}


@pytest.mark.parametrize("name", METHODS)
def test_steps_reach_every_trained_parameter_and_lower_the_loss(name, train, held_out, draw):
    """Key encoders move, but take no gradient. Where there is a queue the loss counts from when it holds nothing but keys."""
    gentle = BLOCKS[name]["views"] | {"brightness": 0.0, "contrast": 0.0, "crop_scale": [0.8, 1.0]}
    queue = {"queue_size": 8} if "queue_size" in BLOCKS[name] else {}
    model = build(name, train, held_out, views=gentle, **queue)
    settings = ("sgd", 0.05) if name == "meta_uscl" else ("adam", 3e-3)
    optimizer, schedule = optimizer_and_schedule(model.trained(), 10**6, *settings, 0.0, 0.0, 1.0, None)
    before = {key: value.clone() for key, value in model.named_parameters()}
    losses = []
    for epoch in range(20):
        batches = train.batches(len(train), model.pick, draw)
        means, _, _ = pretrain.train_epoch(model, batches, optimizer, schedule, draw, model.loss, epoch, 20)
        losses.append(means["loss"])
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), key
        assert parameter.requires_grad != key.startswith("key_"), key
        assert not torch.equal(parameter.detach(), before[key]), key
    start = 5 if queue else 0
    assert sum(losses[-5:]) < sum(losses[start : start + 5])


@pytest.mark.parametrize("name", METHODS)
def test_picked_frames_lie_within_their_clips(name, train, draw):
    model = build(name, train)
    for _ in range(50):
        picked = model.pick(train.clips, draw)
        assert (picked >= 0).all() and (picked < train.clips.count[:, None]).all()


@pytest.mark.parametrize("name", METHODS)
def test_looking_at_held_out_clips_changes_nothing(name, train, held_out, draw):
    model = build(name, train, held_out)
    before = {key: value.clone() for key, value in model.state_dict().items() if torch.is_tensor(value)}
    first, again = (pretrain.held_out_loss(model, held_out, 2, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == again and math.isfinite(first)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("name", METHODS)
def test_what_is_logged_is_a_number_for_the_batch_or_one_for_each_pair(name, train, held_out, draw):
    model = build(name, train, held_out)
    optimizer, schedule = optimizer_and_schedule(model.trained(), 10**6, **BLOCKS[name]["optimizer"])
    batches = train.batches(4, model.pick, draw, steps=2)
    means, pairs, losses = pretrain.train_epoch(model, batches, optimizer, schedule, draw, model.loss, 0, 2)
    assert all(isinstance(value, float) for value in means.values()) and len(losses) == 2
    assert all(len(values) == 8 and not values.requires_grad for values in pairs.values())
    assert means["loss"] == pytest.approx(float(losses.mean()))


@pytest.mark.parametrize("name", METHODS)
def test_a_key_too_many_too_few_or_a_zero_is_named(name, train):
    with pytest.raises(UserError, match=f"methods.{name}.colour is not a parameter"):
        build(name, train, colour=1)
    backbone = shallow()
    for key in set(BLOCKS[name]):
        with pytest.raises(UserError, match=f"{key} is missing"):
            blocks = {name: {other: value for other, value in BLOCKS[name].items() if other != key}}
            pretrain.build(name, blocks, PUBLISHED, backbone, train, train)
    for key in ("temperature", "embedding_width", "queue_size", "bank_size"):
        if key in BLOCKS[name]:
            with pytest.raises(UserError, match=f"methods.{name}.{key} is 0"):
                build(name, train, **{key: 0})


def test_the_method_in_the_documents_runs_as_it_stands(train, held_out, draw):
    found = {}
    exec(re.search(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)[1], found)
    views = chosen_views(BLOCKS["simclr"]["views"], PUBLISHED, "views")
    settings = {key: value for key, value in BLOCKS["simclr"].items() if key not in ("optimizer", "views", "keep")}
    model = found["Method"](shallow(), train, views, **settings)          # the block that the text says to copy
    frames, clips = next(train.batches(len(train), model.pick, draw))
    loss, values = model.loss(frames, clips, draw)
    loss.backward()
    assert loss.isfinite() and values == {} and all(part.grad is not None for part in model.parameters())


def test_an_unknown_method_is_answered_with_the_choices(train):
    with pytest.raises(UserError, match="pretrain.method is 'uscll'; choose from .*simclr, .*uscl"):
        pretrain.build("uscll", BLOCKS, PUBLISHED, shallow(), train, train)
