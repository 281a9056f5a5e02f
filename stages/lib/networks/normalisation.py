"""The constants that normalise the input of a network: (grey − mean) / std, for grey values 0…1.

A network needs the constants that it was trained with. They travel with its weights: in the facts of our own files, with the
layout of a published file, with torchvision for ImageNet.
"""

from pathlib import Path
from typing import NamedTuple

import torchvision
from safetensors import SafetensorError, safe_open

from stages.lib.networks import checkpoint, layouts
from stages.lib.networks.backbone import Backbone
from stages.lib.networks.initial import read_weights
from stages.lib.params import UserError, require


class Normalisation(NamedTuple):
    """(grey − mean) / std."""

    mean: float
    std: float


RANDOM = Normalisation(0.5, 0.25)       # of random weights, which have no constants of their own: as USCL
LAYOUTS = {"uscl": Normalisation(0.5, 0.25), "meta_uscl": Normalisation(0.18, 0.24)}     # from the authors' code


def normalisation(init: str, backbone: Backbone, key: str = "init") -> Normalisation:
    """The constants with which the first weights were trained.

    Args:
        init: as in `initialise`: random | imagenet | pretrained | a file of weights.
        key: of `init` in params.yaml, for the error message.

    Raises:
        UserError: no such choice or file, or a file that does not tell.
    """
    if init == "random":
        return RANDOM
    if init == "imagenet":
        return _imagenet(backbone.arch)
    path = checkpoint.PRETRAINED if init == "pretrained" else Path(init)
    require(init == "pretrained" or path.is_file(), f"params.yaml: {key} is {init!r}; choose from random, imagenet, pretrained "
            "or a file of weights")
    if init == "pretrained" or _is_ours(path):
        facts = checkpoint.facts(path)
        return Normalisation(facts["mean"], facts["std"])
    layout = layouts.origin(read_weights(init)[0], backbone)
    if layout == "imagenet":
        return _imagenet(backbone.arch)
    if layout not in LAYOUTS:
        raise UserError(f"{init} does not tell the mean and std of the frames that it was trained on; give both as numbers in "
                        "params.yaml, in the block `views` of the stage")
    return LAYOUTS[layout]


def filled_in(block: dict, init: str, backbone: Backbone, key: str = "init") -> dict:
    """A block of views whose `mean: null` and `std: null` are replaced by the constants of the first weights.

    A number in the block stays: it overrules.
    """
    missing = [name for name in Normalisation._fields if isinstance(block, dict) and block.get(name, 0) is None]
    return block | {name: getattr(normalisation(init, backbone, key), name) for name in missing} if missing else block


def _is_ours(path: Path) -> bool:
    """Whether the file is a safetensors file with our facts."""
    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return "sonopair" in (file.metadata() or {})
    except SafetensorError:
        return False            # `read_weights` says what is wrong with it


def _imagenet(arch: str) -> Normalisation:
    """torchvision's constants; the mean over the three channels, as each channel gets the same grey frame."""
    transform = torchvision.models.get_model_weights(arch).DEFAULT.transforms()
    return Normalisation(*(round(sum(values) / len(values), 6) for values in (transform.mean, transform.std)))
