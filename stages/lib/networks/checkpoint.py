"""A network as a file: weights under torchvision's key names, and the facts of the run that made them.

models/pretrained.safetensors   the pretrained backbone
models/<task>.safetensors       the network fine-tuned for a task, with its classifier
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stages.lib.clips import store
from stages.lib.params import UserError, require

PRETRAINED = Path("models/pretrained.safetensors")


def write(weights: dict[str, torch.Tensor], facts: dict, path: Path = PRETRAINED) -> None:
    """Write the weights, and the facts (as JSON, under the one metadata key `sonopair`) into the header.

    safetensors shuffles several keys; with one key the same run gives the same bytes, and stages that depend on them stay
    cached. For the same reason the facts must not hold a time.
    """
    with store.replacing(path, folder=False) as partial:
        save_file({name: value.contiguous() for name, value in weights.items()}, partial, {"sonopair": json.dumps(facts)})


def facts(path: Path = PRETRAINED) -> dict:
    """The facts of the run: method, arch, epochs, epoch (kept), held_out_loss, seed, clips, frames, size_px, mean,
    std, params, …

    A fine-tuned network has task, arch, classes, size_px, mean, std, and how frames were taken from clips.

    Raises:
        UserError: the file is missing, or not ours.
    """
    try:
        found = json.loads(_open(path).metadata()["sonopair"])
    except (ValueError, RecursionError):
        found = None
    require(isinstance(found, dict), f"{path} does not say in JSON how it was trained; remove it and run `dvc repro` to make "
            "it again")
    return found


def weights(path: Path = PRETRAINED) -> dict[str, torch.Tensor]:
    """The weights, on the CPU; raises as `facts` does."""
    file = _open(path)
    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)


def finetuned(task: str) -> Path:
    """The file of the network that is fine-tuned for a task."""
    return Path(f"models/{task}.safetensors")


def there() -> list[Path]:
    """The files of networks that are there."""
    return sorted(PRETRAINED.parent.glob(f"*{PRETRAINED.suffix}"))


def _open(path: Path) -> safe_open:
    try:
        file = safe_open(path, framework="pt")
    except FileNotFoundError:
        others = f", or choose from {', '.join(map(str, there()))}" if there() else ""
        raise UserError(f"{path} is missing; run `dvc repro` to make it{others}") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and run `dvc repro` to make it again") from None
    if "sonopair" not in (file.metadata() or {}):
        raise UserError(f"{path} does not say how it was trained, so this pipeline did not make it; `dvc repro` makes one")
    return file
