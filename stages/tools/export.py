"""Export a network: `python -m stages.tools.export <weights.safetensors> <file.onnx | file.pt2 | file.pt>`

reads   models/pretrained.safetensors, or models/<task>.safetensors
writes  ONNX (.onnx), torch.export (.pt2) or TorchScript (.pt), in single precision

Input: `frames` [B, 1, size_px, size_px], any B: grey values from 0 to 1, minus the `mean`, divided by the `std` of training.
Output: `features` [B, F] of a backbone, or `logits` [B, classes] of a fine-tuned network. The file also has the facts of the
run (classes, mean, std …) as JSON, by the name `sonopair`: in the ONNX metadata, or as an extra file of the archive.
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

from stages.lib.networks.backbone import Classifier
from stages.lib.params import require
from stages.lib.running.stage import run_tool
from stages.tools.trained_network import restore


class Grey(nn.Module):
    """A torchvision network that takes grey frames [B, 1, H, W], in the precision of its weights."""

    def __init__(self, network: nn.Module, head: nn.Module):
        super().__init__()
        self.network, self.head = network, head

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.head(self.network(frames.expand(-1, 3, -1, -1)))


def main(weights: Path, target: Path) -> None:
    """Export the network in the format of the target's suffix.

    Raises:
        UserError: unknown suffix, missing folder, or not a network of this pipeline. Nothing is written then.
    """
    require(target.suffix in FORMATS, f"{target} ends in {target.suffix!r}; choose from {', '.join(FORMATS)}")
    require(target.parent.is_dir(), f"the folder {target.parent} is missing")
    network, facts = restore(weights)
    require("size_px" in facts, f"{weights} does not say size_px; remove it and run `dvc repro` to make it again")
    fine_tuned = isinstance(network, Classifier)
    backbone, head = (network.backbone, network.linear) if fine_tuned else (network, nn.Identity())
    backbone.fix_size(facts["size_px"])
    grey = Grey(backbone.network.to(memory_format=torch.contiguous_format), head).eval().requires_grad_(False)
    example = torch.zeros(2, 1, facts["size_px"], facts["size_px"])
    output = "logits" if fine_tuned else "features"
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")     # TorchScript warns that it is deprecated, the ONNX exporter about its own parts
        unfinished = Path(folder, target.name)
        FORMATS[target.suffix](grey, example, output, json.dumps(facts), unfinished)
        unfinished.replace(target)
    print(f"{target}: {facts['arch']}, frames [B, 1, {facts['size_px']}, {facts['size_px']}] → {output}. For research only, "
          "not for diagnosis.")


def to_onnx(network: nn.Module, example: torch.Tensor, output: str, facts: str, path: Path) -> None:
    program = torch.onnx.export(network, (example,), dynamo=True, verbose=False, input_names=["frames"], output_names=[output],
                                dynamic_shapes={"frames": {0: torch.export.Dim("batch")}})
    program.model.metadata_props["sonopair"] = facts
    program.save(path)


def to_export(network: nn.Module, example: torch.Tensor, output: str, facts: str, path: Path) -> None:
    program = torch.export.export(network, (example,), dynamic_shapes={"frames": {0: torch.export.Dim("batch")}})
    torch.export.save(program, path, extra_files={"sonopair": facts})


def to_torchscript(network: nn.Module, example: torch.Tensor, output: str, facts: str, path: Path) -> None:
    torch.jit.trace(network, example).save(str(path), _extra_files={"sonopair": facts})


FORMATS = {".onnx": to_onnx, ".pt2": to_export, ".pt": to_torchscript}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m stages.tools.export", description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="models/pretrained.safetensors or models/<task>.safetensors")
    parser.add_argument("target", type=Path, help="the file to write: .onnx, .pt2 or .pt")
    run_tool(main, **vars(parser.parse_args()))
