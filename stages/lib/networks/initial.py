"""The first weights of a backbone: random, ImageNet's, our own pretrained ones, or those of a file that a user names."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import torchvision
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from safetensors.torch import load_file

from stages.lib.networks import checkpoint, layouts
from stages.lib.networks.backbone import Backbone
from stages.lib.params import UserError, require


def initial(*words: str) -> Any:
    """The type of an `init` in params.yaml: one of the words, or a file."""

    def known(init: str) -> str:
        if init not in words and not Path(init).is_file():
            raise PydanticCustomError("init", f"{', '.join(words)} or a file of weights")
        return init

    return Annotated[str, AfterValidator(known)]


Init = initial("random", "imagenet", "pretrained")


def initialise(backbone: Backbone, init: str, key: str = "init") -> Backbone:
    """Give the backbone its first weights: `random` leaves it as it is.

    Args:
        init: random | imagenet (torchvision's, from torch's cache or the internet) | pretrained
            (models/pretrained.safetensors) | a file of weights in a layout of layouts.py, written by safetensors or torch.save.
            A printed line names the weights in it that do not belong to the backbone.
        key: of `init` in params.yaml, for the error message.

    Raises:
        UserError: no such choice or file; keys or shapes that are neither the backbone's nor known to the layout.
    """
    if init == "random":
        return backbone
    if init == "pretrained":
        return load(backbone, checkpoint.weights(), str(checkpoint.PRETRAINED))
    if init == "imagenet":
        return load(backbone, _imagenet(backbone.arch), "ImageNet weights")
    require(Path(init).is_file(), f"params.yaml: {key} is {init!r}; choose from random, imagenet, pretrained or a file "
            "of weights")
    content, beside = read_weights(init)
    state, dropped = layouts.translated(content, backbone, init)
    load(backbone, state, init)
    if dropped or beside:
        _say(f"{init}: every weight of {backbone.arch} found; not used: {layouts.summary(dropped + beside)}")
    return backbone


def named_file(init: str) -> list[Path]:
    """The file that `init` names, if it names one. dvc.yaml cannot depend on it, so the key of an unfinished run does."""
    return [Path(init)] if Path(init).is_file() else []


def read_weights(path: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors of a file by name, and the names of everything else in it; code in the file is never run."""
    try:
        safe = path.endswith(".safetensors")
        content = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:      # torch.load raises nearly any exception for a file of another kind
        raise UserError(f"{path} cannot be read as weights ({type(error).__name__}): it needs tensors by name, as safetensors "
                        "or torch.save writes them") from None
    state, beside = layouts.unwrapped(content)
    named = isinstance(state, dict) and all(isinstance(key, str) and torch.is_tensor(state[key]) for key in state)
    require(named, f"{path} does not hold tensors by name; save the network's state_dict and name that file")
    return state, beside


@cache
def _say(sentence: str) -> None:
    """Print it once, though every fold loads the file anew."""
    print(sentence)


def _imagenet(arch: str) -> dict[str, torch.Tensor]:
    """torchvision's weights, the first version, from which the papers start."""
    choices = torchvision.models.get_model_weights(arch)
    choice = getattr(choices, "IMAGENET1K_V1", choices.DEFAULT)
    try:
        return torchvision.models.get_model(arch, weights=choice, progress=False).state_dict()
    except (OSError, RuntimeError) as error:
        raise UserError(f"the ImageNet weights of {arch} cannot be fetched ({error}); download {choice.url} and name the file "
                        "in place of imagenet") from None


def load(backbone: Backbone, state: dict, name: str) -> Backbone:
    """Load strictly: `state` must have all keys of the backbone, and beside them the classifier's at most.

    Args:
        state: tensors under torchvision's names; `num_batches_tracked` may be missing, as in old files.
        name: of their origin, for the error message.
    """
    wanted = backbone.network.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(backbone.classifier + ".")}
    absent = {key for key in wanted.keys() - given.keys() if not key.endswith(".num_batches_tracked")}
    for what, keys in (("misses", absent), ("has an unknown key,", given.keys() - wanted.keys())):
        require(not keys, f"{name} does not fit {backbone.arch}: it {what} {', '.join(sorted(keys)[:3])} ({len(keys)} in all)")
    unlike = [key for key, value in given.items() if value.shape != wanted[key].shape]
    require(not unlike, f"{name} does not fit {backbone.arch}: {', '.join(unlike[:3])} has another shape")
    wanted.update(given)            # keeps the metadata beside the tensors
    backbone.network.load_state_dict(wanted)
    return backbone
