"""State of an unfinished training run: a killed run continues from it."""

import hashlib
import json
import os
from pathlib import Path
from pickle import UnpicklingError

import torch

from stages.lib.params import UserError, require
from stages.lib.training import distributed
from stages.lib.training.device import random_state, set_random_state


class Resume:
    """A file with the state of an unfinished run. Only a run with the same key reads it; the end of the run removes it.

    Args:
        path: of the file.
        facts: everything that decides the run, as JSON can hold it.
        inputs: files that the run reads, data and code; their bytes are part of the key.

    Raises:
        UserError: an input is missing.
    """

    def __init__(self, path: str | Path, facts: dict, inputs: list[Path]):
        self.path = Path(path)
        digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
        for file in inputs:
            require(file.exists(), f"{file} is missing; run `dvc repro` to make it")
            with open(file, "rb") as stream:
                digest.update(hashlib.file_digest(stream, "blake2b").digest())
        self.key = digest.hexdigest()

    def load(self) -> dict | None:
        """The state that an interrupted run of the same key left, or None."""
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True) if self.path.exists() else {"key": None}
            key = state.pop("key")
        except (RuntimeError, EOFError, UnpicklingError, KeyError, AttributeError, TypeError):
            raise UserError(f"{self.path} is damaged, or not the state of a run; remove it to start again") from None
        distributed.wait()        # else a slower process would read what a quicker one has saved since
        return state if key == self.key else None

    def save(self, **state) -> None:
        """Replace the file by `state` (tensors, numbers, strings, lists and dicts of them) in one move.

        Several processes have equal states; the first process writes.
        """
        if distributed.first():
            self._write(state)
        distributed.wait()

    def _write(self, state: dict) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        try:
            torch.save(state | {"key": self.key}, partial)
            os.replace(partial, self.path)
        finally:
            partial.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the file at the end of the run."""
        if distributed.first():
            self.path.unlink(missing_ok=True)


def unfinished(name: str, facts: dict, inputs: list[Path], script: str | Path) -> Resume:
    """The unfinished run of a stage: `models/<name>.unfinished`, valid for the same facts, data and code.

    Every stage that trains calls it: `unfinished(f"finetune_{task}", facts, inputs, __file__)`. The stage then reads the state
    with `load()` and gives the number of finished epochs to `Progress`, which prints the message.

    Args:
        name: of the file in models/.
        facts: parameters and anything else that decides the run, as JSON can hold it.
        inputs: data files that the run reads, also those that dvc.yaml cannot name.
        script: of the stage; all of stages/lib beside it belongs to the code.
    """
    code = [Path(script), *sorted(Path(script).parent.glob("lib/**/*.py"))]
    return Resume(f"models/{name}.unfinished", facts, [*inputs, *code])


class TrainingState:
    """Model, optimiser, random streams and records of a training loop, saved together in a `Resume` file.

    A new object takes over the state that the file holds; without one it saves the first state.

    Args:
        resume: the file.
        parts: name → model, optimiser: whatever has a `state_dict`.
        draw: the loop's random stream; torch's default streams are saved beside it.
        records: name → what the loop has noted so far; `records` is replaced by what the file holds.
    """

    def __init__(self, resume: Resume, parts: dict, draw: torch.Generator, records: dict):
        self.resume, self.parts, self.draw, self.records = resume, parts, draw, records
        if not self.load():
            self.save()

    def load(self) -> bool:
        """Put everything back to the saved state; False if there is none."""
        state = self.resume.load()
        if state is None:
            return False
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.draw.set_state(state["draw"])
        set_random_state(state["default"], self.draw.device)
        self.records = {name: state[name] for name in self.records}
        return True

    def save(self) -> None:
        """Write the state of this moment."""
        streams = {"draw": self.draw.get_state(), "default": random_state(self.draw.device)}
        states = {name: part.state_dict() for name, part in self.parts.items()}
        self.resume.save(**states, **streams, **self.records)
