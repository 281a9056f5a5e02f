"""What was run: the checkpoint, the parameters, and which of them differ from the committed ones."""

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
    """Nested blocks as one level, by the names that -S takes: {"pretrain.epochs": 100, …}."""
    return pd.json_normalize(parameters).to_dict("records")[0]


def changes(parameters: dict) -> dict[str, tuple] | None:
    """The flat parameters whose value differs from that of the commit: name → (value, committed value or None).

    The commit of an experiment (`dvc exp run -S …`) is the one that it started from. Returns None if there is no commit.
    """
    committed = revisions.committed()
    if committed is None:
        return None
    before = flat(committed)
    return {name: (value, before.get(name)) for name, value in parameters.items() if before.get(name) != value}


def values(parameters: dict, results: list[dict]) -> dict:
    """The values that the templates need about the run, beside its results.

    Args:
        parameters: of the run, as `flat` returns them.
        results: of the tasks. Their `runs` count what was run: a division that is given, or that leaves one patient out, is the
            only one, whatever the fold seeds.
    """
    most = {name: max(result["runs"][name] for result in results) for name in results[0]["runs"]}
    several = [f"{count} {name}" for name, count in most.items() if count > 1]
    return {
        "parameters": parameters,
        "changes": changes(parameters),
        "checkpoint": checkpoint(),
        "method": parameters["pretrain.method"],
        "tasks": ", ".join(parameters["finetune.tasks"]),
        "seeds": parameters["finetune.seeds"],
        "several": " and ".join(several),  # what the scores are means over; '' for one division and one seed
        "phantom": parameters["collection"] == "phantom",
        "pretrained_start": parameters["finetune.init"] == "pretrained",
        "interval": f"{100 * parameters['report.confidence']:g}\u00a0%",
        "bootstrap_samples": parameters["report.bootstrap_samples"],
        "perplexity": parameters["report.tsne.perplexity"],
        "baselines": parameters["report.baselines"],
    }
