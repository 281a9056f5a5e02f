"""The first weights of a backbone: random, ImageNet's, our own pretrained ones, or those of a file that a user names."""

from functools import cache
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file

from stages.lib.networks import checkpoint, layouts
from stages.lib.networks.backbone import Backbone
from stages.lib.params import UserError, require


def initialise(backbone: Backbone, init: str, key: str = "init") -> Backbone:
    """Give the backbone its first weights: `random` leaves it as it is.

    Args:
        init: random | imagenet (torchvision's, from torch's cache or the network) | pretrained
            (models/pretrained.safetensors) | a file of weights in one of the layouts of layouts.py, written by
            safetensors or torch.save. One printed line names the weights that do not belong to the backbone.
        key: of `init` in params.yaml, for the sentence that the user reads.

    Raises:
        UserError: no such choice or file, or its keys and shapes are not just those of the backbone and what the layout
            is known to have beside them.
    """
    if init == "random":
        return backbone
    if init == "pretrained":
        return load(backbone, checkpoint.weights(), str(checkpoint.PRETRAINED))
    if init == "imagenet":
        return load(backbone, _imagenet(backbone.arch), "ImageNet weights")
    require(Path(init).is_file(), f"params.yaml: {key} is {init!r}; choose from random, imagenet, pretrained (finetune only) "
            "or a file of weights")
    content, beside = _read(init)
    state, dropped = layouts.translated(content, backbone, init)
    load(backbone, state, init)
    if dropped or beside:
        _say(f"{init}: every weight of {backbone.arch} found; left out: {layouts.summary(dropped + beside)}")
    return backbone


def named_file(init: str) -> list[Path]:
    """The file that `init` names, if it names one; dvc.yaml cannot depend on it, so an unfinished run does."""
    return [Path(init)] if Path(init).is_file() else []


def _read(path: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors by name that a file holds, and what a checkpoint keeps beside them; code in it is never run."""
    try:
        safe = path.endswith(".safetensors")
        content = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:      # torch.load answers a file of another kind with nearly any of them
        raise UserError(f"{path} cannot be read as weights ({type(error).__name__}): it needs tensors by name, as safetensors "
                        "or torch.save writes them") from None
    state, beside = layouts.unwrapped(content)
    named = isinstance(state, dict) and all(isinstance(key, str) and torch.is_tensor(state[key]) for key in state)
    require(named, f"{path} holds something else than tensors by name; take the state_dict of the network out of it")
    return state, beside


@cache
def _say(sentence: str) -> None:
    """Print it once, though every fold loads the file anew."""
    print(sentence)


def _imagenet(arch: str) -> dict[str, torch.Tensor]:
    """torchvision's weights, the first version, which the papers start from."""
    choices = torchvision.models.get_model_weights(arch)
    choice = getattr(choices, "IMAGENET1K_V1", choices.DEFAULT)
    try:
        return torchvision.models.get_model(arch, weights=choice, progress=False).state_dict()
    except (OSError, RuntimeError) as error:
        raise UserError(f"the ImageNet weights of {arch} cannot be fetched ({error}); download {choice.url} and name the file "
                        "in place of imagenet") from None


def load(backbone: Backbone, state: dict, name: str) -> Backbone:
    """Load strictly: every key of the backbone, no other but the classifier's. Old files do not count batch norm's batches.

    Args:
        state: tensors under torchvision's names.
        name: what they come from, for the sentence that the user reads.
    """
    wanted = backbone.network.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(backbone.classifier + ".")}
    absent = {key for key in wanted.keys() - given.keys() if not key.endswith(".num_batches_tracked")}
    for what, keys in (("misses", absent), ("has an unknown key,", given.keys() - wanted.keys())):
        require(not keys, f"{name} does not fit {backbone.arch}: it {what} {', '.join(sorted(keys)[:3])} ({len(keys)} in all)")
    unlike = [key for key, value in given.items() if value.shape != wanted[key].shape]
    require(not unlike, f"{name} does not fit {backbone.arch}: {', '.join(unlike[:3])} has another shape")
    wanted.update(given)            # keeps what torchvision notes beside the tensors
    backbone.network.load_state_dict(wanted)
    return backbone
