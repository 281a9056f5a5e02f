"""Which state of the project a run belongs to: its revision, and the parameters that were changed for it."""

import subprocess

import pandas as pd

from stages.lib import revisions


def revision() -> str:
    """The commit that is checked out, with what its code had besides; an empty string outside git."""
    commit = _git("rev-parse", "--short", "HEAD")
    return f"{commit}, with changes to the code" if commit and _git("status", "--porcelain", "--", "stages") else commit


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


def _git(*words: str) -> str:
    """What git says; an empty string where it fails or is not there."""
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
