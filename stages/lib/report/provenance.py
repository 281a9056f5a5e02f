"""Which state of the project a run belongs to: its checkpoint, and the parameters that were changed for it."""

import hashlib

import pandas as pd

from stages.lib import revisions
from stages.lib.networks.checkpoint import PRETRAINED


def checkpoint() -> str:
    """The md5 of the pretrained network, as dvc.lock names it: with it `git log -S` finds the commit of a page.

    The page names no commit and no time: the same data, code and parameters give the same bytes, in whatever clone.
    """
    return hashlib.md5(PRETRAINED.read_bytes(), usedforsecurity=False).hexdigest()


def flat(parameters: dict) -> dict:
    """Nested blocks as one level, under the names that -S takes: {"pretrain.epochs": 100, …}."""
    return pd.json_normalize(parameters).to_dict("records")[0]


def changes(parameters: dict) -> dict[str, tuple] | None:
    """Which of the flat parameters the checked-out commit has otherwise: name → (value, the commit's or None).

    In an experiment (`dvc exp run -S …`) the commit's are those that it started from. None where there is no commit.
    """
    committed = revisions.committed()
    if committed is None:
        return None
    before = flat(committed)
    return {name: (value, before.get(name)) for name, value in parameters.items() if before.get(name) != value}
