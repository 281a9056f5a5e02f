"""The pretrained backbone as a file: weights under torchvision's key names, and the facts of the run that made them."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stages.lib.params import UserError

PRETRAINED = Path("models/pretrained.safetensors")


def write(weights: dict[str, torch.Tensor], facts: dict, path: Path = PRETRAINED) -> None:
    """Write the weights, and the facts (as JSON, under the one metadata key `sonopair`) into the header.

    One key, since safetensors shuffles several: the same run then gives the same bytes, and what depends on them stays
    cached. For that reason no time belongs into the facts.
    """
    path.parent.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, path, {"sonopair": json.dumps(facts)})


def facts() -> dict:
    """The facts of the run: method, arch, epochs, epoch (kept), held_out_loss, seed, clips, frames, size_px, params, …

    Raises:
        UserError: the file is missing, or not ours.
    """
    return json.loads(_open().metadata()["sonopair"])


def weights() -> dict[str, torch.Tensor]:
    """The weights, on the CPU; raises as `facts` does."""
    file = _open()
    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)


def _open() -> safe_open:
    try:
        file = safe_open(PRETRAINED, framework="pt")
    except FileNotFoundError:
        raise UserError(f"{PRETRAINED} is missing; run `dvc repro` to make it") from None
    except SafetensorError as error:
        raise UserError(f"{PRETRAINED} cannot be read ({error}); remove it and run `dvc repro`") from None
    if "sonopair" not in (file.metadata() or {}):
        raise UserError(f"{PRETRAINED} does not say how it was trained; run `dvc repro -f pretrain`")
    return file
