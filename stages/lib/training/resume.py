"""State of an unfinished training run, so that a killed run goes on where it was."""

import hashlib
import json
import os
from pathlib import Path

import torch

from stages.lib.params import require
from stages.lib.training import distributed
from stages.lib.training.device import random_state, set_random_state


class Resume:
    """One file beside the outputs, no output itself: it is used only by a run of the same key, and removed at the end.

    Args:
        path: of the file.
        parameters: everything that decides the run, as JSON can hold it.
        inputs: files that the run reads, its data and its code; their bytes are part of the key.

    Raises:
        UserError: an input is missing.
    """

    def __init__(self, path: str | Path, parameters: dict, inputs: list[Path]):
        self.path = Path(path)
        digest = hashlib.blake2b(json.dumps(parameters, sort_keys=True).encode(), digest_size=16)
        for file in inputs:
            require(file.exists(), f"{file} is missing; run `dvc repro` to make it")
            with open(file, "rb") as stream:
                digest.update(hashlib.file_digest(stream, "blake2b").digest())
        self.key = digest.hexdigest()

    def load(self) -> dict | None:
        """The state that an interrupted run of the same key left, or None."""
        state = torch.load(self.path, map_location="cpu", weights_only=True) if self.path.exists() else {"key": None}
        distributed.wait()        # else a slower process would read what a quicker one has saved since
        return state if state.pop("key") == self.key else None

    def save(self, **state) -> None:
        """Replace the file by `state` (tensors, numbers, strings, and lists and dicts of them) in one move.

        Of several processes, whose states are equal, the first one writes.
        """
        if distributed.first():
            self._write(state)
        distributed.wait()

    def _write(self, state: dict) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        torch.save(state | {"key": self.key}, partial)
        os.replace(partial, self.path)

    def remove(self) -> None:
        """The run has ended: nothing to go on with."""
        if distributed.first():
            self.path.unlink(missing_ok=True)


def snapshot(moving: dict, draw: torch.Generator) -> dict:
    """The state of model, optimiser and random streams, as `Resume` can save it."""
    streams = {"draw": draw.get_state(), "default": random_state(draw.device)}
    return {name: part.state_dict() for name, part in moving.items()} | streams


def restore(moving: dict, draw: torch.Generator, state: dict) -> None:
    """Put model, optimiser and random streams back to a saved state."""
    for name, part in moving.items():
        part.load_state_dict(state[name])
    draw.set_state(state["draw"])
    set_random_state(state["default"], draw.device)
