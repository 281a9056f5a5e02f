"""Layouts of other projects' files: their names of a backbone's weights, and what else the files hold.

torchvision        conv1.weight …; a new head may stand in the classifier's place
USCL, Meta-USCL    features.0.weight …: the network's parts by number; beside them the heads l1, l2, fc…, linear
MoCo, UCL          encoder_q.conv1.weight …: torchvision's names; beside them encoder_k, queues, heads of the cycle

The tensors may stand below the key `state_dict` or `model`, beside epoch, optimizer and the like. DataParallel puts `module.`
before each name.
"""

import re
from collections import Counter

import torch

from stages.lib.networks.backbone import Backbone
from stages.lib.params import require

WRAPPERS = ("state_dict", "model")
NUMBERED = "features."
NUMBERED_BESIDE = r"(l1|l2|fc\d*|linear)\."
QUERY = "encoder_q."
QUERY_BESIDE = r"(encoder_k|[qk]_cycle_fc)\.|(negative_)?queue|(neg_vecs_labels|label_ptr|negatives)$"


def unwrapped(content: object) -> tuple[object, list[str]]:
    """The tensors by name, taken from below the key that holds them, and the names of the other keys."""
    held = content if isinstance(content, dict) else {}
    inside = next((key for key in WRAPPERS if isinstance(held.get(key), dict)), None)
    return (held[inside], [str(key) for key in held if key != inside]) if inside else (content, [])


def translated(state: dict[str, torch.Tensor], backbone: Backbone, name: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors under torchvision's names, and the names of tensors that the layout has beside the backbone.

    Raises:
        UserError: a key that the layout does not have; the message has the file's `name`.
    """
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    children = [child for child, _ in backbone.network.named_children()]
    prefix, beside, names = "", re.escape(backbone.classifier) + r"\.", {}
    if any(key.startswith(QUERY) for key in state):
        prefix, beside = QUERY, rf"{re.escape(QUERY)}{beside}|{QUERY_BESIDE}"
    elif "features" not in children and any(key.startswith(NUMBERED) for key in state):
        prefix, beside, names = NUMBERED, NUMBERED_BESIDE, {str(number): child for number, child in enumerate(children)}
    dropped = [key for key in state if re.match(beside, key)]
    kept = [key for key in state if key not in set(dropped)]
    unknown = [key for key in kept if not key.startswith(prefix)]
    require(not unknown, f"{name} does not fit {backbone.arch}: it has an unknown key, {', '.join(unknown[:3])} "
            f"({len(unknown)} in all)")
    given = {}
    for key in kept:
        part, dot, rest = key.removeprefix(prefix).partition(".")
        given[names.get(part, part) + dot + rest] = state[key]
    return given, dropped


def origin(state: dict[str, torch.Tensor], backbone: Backbone) -> str | None:
    """The pretraining that a file comes from: uscl, meta_uscl, imagenet (torchvision, MoCo and UCL); None: unknown.

    USCL's files have a classifier (`fc`, `linear`) beside the projection `l1`, `l2`; Meta-USCL's have the projection only.
    """
    keys = {key.removeprefix("module.") for key in state}
    children = [child for child, _ in backbone.network.named_children()]
    if "features" in children or not any(key.startswith(NUMBERED) for key in keys):
        return "imagenet"
    heads = {key.partition(".")[0] for key in keys if re.match(NUMBERED_BESIDE, key)}
    if heads - {"l1", "l2"}:
        return "uscl"
    return "meta_uscl" if heads else None


def summary(names: list[str]) -> str:
    """Names grouped by module, with their number: `encoder_k (122), fc (4), queue (1)`."""
    stems = Counter(name.removeprefix(QUERY).partition(".")[0] for name in names)
    return ", ".join(f"{stem} ({count})" for stem, count in sorted(stems.items()))
