"""Run a published setting: `python -m stages.tools.published <name> [options of dvc exp run]`.

reads   published/<name>.yaml   parameters that differ from params.yaml, in the same blocks
        params.yaml

It starts `dvc exp run --name <name>` with one `--set-param` per parameter, so that the run is an experiment like any other:
`dvc exp show` lists it, `--queue` and `--temp` work, a further `-S` overrules.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from stages.lib.params import require
from stages.lib.running.stage import one_sentence

FOLDER = Path("published")


def main(name: str, options: list[str]) -> int:
    """Start the experiment; the exit status of DVC."""
    command = ["dvc", "exp", "run", "--name", name, *arguments(name), *options]
    print(" ".join(command), flush=True)
    return subprocess.run(command, env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}).returncode


def arguments(name: str) -> list[str]:
    """`--set-param key=value` for each parameter of a published setting.

    Raises:
        UserError: no such setting, or a parameter that params.yaml does not have.
    """
    path = FOLDER / f"{name}.yaml"
    choices = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
    require(path.is_file(), f"{path} is missing; choose from {choices}")
    known = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    found = []
    for key, value in leaves(yaml.safe_load(path.read_text(encoding="utf-8")), known, ""):
        found += ["--set-param", f"{key}={json.dumps(value)}"]
    return found


def leaves(block: dict, known: dict, prefix: str) -> list[tuple[str, object]]:
    """Full name and value of each parameter in a block; a list is one value.

    Args:
        known: the block of params.yaml of the same place.
    """
    found = []
    for key, value in block.items():
        require(key in known, f"published: params.yaml has no parameter {prefix}{key}")
        inside = isinstance(value, dict) and isinstance(known[key], dict)
        found += leaves(value, known[key], f"{prefix}{key}.") if inside else [(prefix + key, value)]
    return found


if __name__ == "__main__":
    with one_sentence():
        require(len(sys.argv) > 1, "name a setting: python -m stages.tools.published <name>")
        sys.exit(main(sys.argv[1], sys.argv[2:]))
