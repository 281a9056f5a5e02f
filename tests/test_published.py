"""The published settings: known parameters, the command for DVC, one step of each run at 224 px."""

import copy
import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from conftest import write_us4

from stages import pretrain
from stages.lib.evaluation.fine_tuning import Recipe, fit
from stages.lib.evaluation.preparation import TaskFrames
from stages.lib.networks import checkpoint
from stages.lib.networks.backbone import Backbone
from stages.lib.networks.normalisation import filled_in
from stages.lib.params import UserError, checked, from_params
from stages.lib.training.views import Views
from stages.tools import published

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "published").glob("*.yaml"))
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.fixture
def project(monkeypatch):
    monkeypatch.chdir(ROOT)


def composed(name):
    """The parameters of the run, as DVC writes them into params.yaml."""
    params = copy.deepcopy(PARAMS)
    words = published.arguments(name)
    assert words[::2] == ["--set-param"] * (len(words) // 2)
    for word in words[1::2]:
        key, _, value = word.partition("=")
        *blocks, last = key.split(".")
        inside = params
        for block in blocks:
            inside = inside[block]
        inside[last] = json.loads(value)
    return params


def test_there_is_a_setting_for_each_paper():
    assert {"uscl", "meta_uscl", "ucl"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_file_holds_what_differs_from_the_default_run(project, name):
    params, own = composed(name), yaml.safe_load((ROOT / f"published/{name}.yaml").read_text())
    assert params != PARAMS and params["pretrain"]["method"] == name and params["extract_frames"]["size_px"] == 224
    for block, values in own.items():
        for key, value in values.items():
            if not isinstance(value, dict):
                assert params[block][key] == value


@pytest.mark.parametrize("name", NAMES)
def test_one_step_at_224_px(project, monkeypatch, tmp_path, name):
    """The network, views and optimiser of the run; random weights, as ImageNet's are on the internet."""
    params = composed(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SONOPAIR_DEVICE", "cpu")
    write_us4(tmp_path / "data/us4", [(10, "", "train")] * 2 + [(10, "", "held_out")] * 2, size_px=224)
    block = params["pretrain"] | {"init": "random", "epochs": 1, "batch_size": 2, "steps_per_epoch": 1}
    given = {"seed": 0, "methods": params["methods"], "views": params["views"]}
    pretrain.main(**given, **checked(pretrain.main, block, "pretrain", given))
    facts = checkpoint.facts()
    assert facts["arch"] == params["pretrain"]["arch"] and facts["size_px"] == 224
    assert pd.read_csv("reports/pretrain.csv")["loss"].notna().all()


@pytest.mark.parametrize("name", NAMES)
def test_one_step_of_fine_tuning_at_224_px(project, monkeypatch, name):
    """Layers, head, views and optimiser of the run, by the loop of the stage."""
    monkeypatch.setenv("SONOPAIR_DEVICE", "cpu")
    params = composed(name)
    block = params["finetune"]
    backbone = Backbone(params["pretrain"]["arch"])
    views = from_params(Views, filled_in(block["views"], "random", backbone), "finetune.views")
    settings = {key: value for key, value in block.items() if key in Recipe._fields}
    recipe = Recipe(**settings | {"arch": backbone.arch, "init": "random", "classes": ["a", "b"], "epochs": 1, "views": views},
                    **block["head"])
    grey = torch.randint(0, 256, (4, 1, 224, 224), dtype=torch.uint8)
    network, loss = next(fit(recipe, TaskFrames(grey, torch.tensor([0, 1, 0, 1]), pd.DataFrame()), torch.arange(4), 0))
    assert math.isfinite(loss)
    trained = {key.split(".")[2] for key, weight in network.named_parameters() if weight.requires_grad and "network" in key}
    assert trained == ({"layer4"} if name != "ucl" else {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"})
    assert isinstance(network.linear, torch.nn.Sequential) == (name == "ucl")


def test_an_unknown_setting_or_parameter_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "published").mkdir()
    (tmp_path / "params.yaml").write_text("pretrain: {epochs: 3}")
    (tmp_path / "published/ours.yaml").write_text("pretrain: {epoch: 5}")
    with pytest.raises(UserError, match="published/theirs.yaml is missing; choose from ours"):
        published.arguments("theirs")
    with pytest.raises(UserError, match="params.yaml has no parameter pretrain.epoch"):
        published.arguments("ours")
