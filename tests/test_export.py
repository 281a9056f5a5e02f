"""Our networks elsewhere: plain torchvision by the README's two lines; ONNX, torch.export, TorchScript with equal outputs."""

import json
import re
import runpy
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
import torchvision
from test_predict import FACTS, save
from torch import nn

from stages.lib.networks import checkpoint
from stages.lib.networks.backbone import Backbone
from stages.lib.params import UserError
from stages.tools import export

RECIPES = (Path(__file__).parents[1] / "docs/recipes.md").read_text()


def pretrained(arch="resnet18"):
    """A backbone with statistics of its own, written as pretraining writes it."""
    torch.manual_seed(2)
    backbone = Backbone(arch)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    checkpoint.write(backbone.network.state_dict(), {"arch": arch, "size_px": 32, "method": "simclr"})
    return backbone.eval()


def eager(backbone, frames, head=None):
    """In single precision: a backbone of ours computes in bfloat16 where the hardware does."""
    with torch.no_grad():
        features = backbone.network(frames.expand(-1, 3, -1, -1))
        return head(features) if head else features


def outputs(path, frames):
    """What the exported network gives, in the program that it is for, and the facts that it carries."""
    if path.suffix == ".onnx":
        onnx.checker.check_model(onnx.load(path), full_check=True)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (result,) = session.run(None, {"frames": frames.numpy()})
        names = [session.get_inputs()[0].name, session.get_outputs()[0].name]
        return torch.tensor(result), session.get_modelmeta().custom_metadata_map["sonopair"], names
    files = {"sonopair": ""}
    if path.suffix == ".pt2":
        network = torch.export.load(path, extra_files=files).module()
    else:
        network = torch.jit.load(str(path), _extra_files=files)
    with torch.no_grad():
        return network(frames), files["sonopair"], None


def test_the_two_lines_of_the_recipe_load_the_backbone_into_plain_torchvision(workspace, draw):
    (lines,) = re.findall(r"In plain torchvision.*?```python\n(.*?)```", RECIPES, re.DOTALL)
    assert lines.count("\n") == 2
    backbone, space = pretrained(), {"torchvision": torchvision, "safetensors": safetensors}
    exec(lines, space)
    network = space["network"].eval()
    network.fc = nn.Identity()
    frames = torch.rand(2, 1, 64, 64, generator=draw)
    with torch.no_grad():
        torch.testing.assert_close(network(frames.expand(-1, 3, -1, -1)), eager(backbone, frames), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("suffix", export.FORMATS)
@pytest.mark.parametrize("kind", ["features", "logits"])
def test_an_export_gives_the_same_outputs_for_any_batch(workspace, draw, capsys, suffix, kind):
    if kind == "features":
        backbone, head, weights = pretrained(), None, checkpoint.PRETRAINED
    else:
        (workspace / "models").mkdir()
        network = save(checkpoint.finetuned("lungs"))
        backbone, head, weights = network.backbone, network.linear, checkpoint.finetuned("lungs")
    target = workspace / f"network{suffix}"
    export.main(weights, target)
    assert list(workspace.glob("network*")) == [target] and not list(workspace.glob("tmp*"))
    for count in (1, 3, 8):
        frames = torch.randn(count, 1, 32, 32, generator=draw)
        found, facts, names = outputs(target, frames)
        expected = eager(backbone, frames, head)
        assert expected.std() > 1e-3
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        assert names in (None, ["frames", kind])
    assert json.loads(facts) == checkpoint.facts(weights)
    assert "For research only, not for diagnosis." in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("suffix", export.FORMATS)
def test_a_vision_transformer_is_exported_for_the_size_of_its_frames(workspace, draw, monkeypatch, suffix):
    """Made for 32 px, trained on 16 px: the exported network has the position embeddings of that size."""
    def small(*_, **__):
        return torchvision.models.VisionTransformer(32, 4, 1, 2, 16, 16)

    monkeypatch.setattr(torchvision.models, "get_model", small)
    backbone = Backbone("vit_b_32").eval()
    nn.init.normal_(backbone.network.encoder.pos_embedding)
    checkpoint.write(backbone.network.state_dict(), {"arch": "vit_b_32", "size_px": 16, "method": "simclr"})
    export.main(checkpoint.PRETRAINED, workspace / f"network{suffix}")
    frames = torch.randn(3, 1, 16, 16, generator=draw)
    with torch.no_grad():
        expected = backbone.double()(frames.double()).float()           # in double precision there is no bfloat16
    assert expected.std(0).max() > 1e-2
    torch.testing.assert_close(outputs(workspace / f"network{suffix}", frames)[0], expected, atol=1e-4, rtol=0)


def test_what_cannot_be_exported_is_one_sentence_and_nothing_is_written(workspace):
    pretrained()
    (workspace / "models/text.safetensors").write_text("text")
    checkpoint.write({"conv1.weight": torch.zeros(1)}, {"arch": "resnet18", "size_px": 32}, Path("models/few.safetensors"))
    save("models/two.safetensors", classes=["a", "b"])
    cases = [("models/pretrained.safetensors", "network.pth", "ends in '.pth'; choose from .onnx, .pt2, .pt"),
             ("models/pretrained.safetensors", "nowhere/network.pt", "the folder nowhere is missing"),
             ("models/absent.safetensors", "network.pt", "is missing; run `dvc repro` to make it, or choose from models/few"),
             ("models", "network.pt", "cannot be read"),
             ("models/text.safetensors", "network.pt", "cannot be read"),
             ("models/few.safetensors", "network.pt", "it misses bn1.bias"),
             ("models/two.safetensors", "network.pt", f"{len(FACTS['classes']) - 1} classes")]
    for weights, target, sentence in cases:
        with pytest.raises(UserError) as error:
            export.main(Path(weights), Path(target))
        assert sentence in str(error.value) and "\n" not in str(error.value)
    assert sorted(path.name for path in workspace.iterdir()) == ["models"]


def test_the_command(workspace, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["export", "models/pretrained.safetensors", "network.onnx"])
    with pytest.raises(SystemExit, match="^error: models/pretrained.safetensors is missing"):
        runpy.run_path(export.__file__, run_name="__main__")
