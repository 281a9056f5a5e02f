"""The faults: each goes to a run that has begun, at a random moment, and ends when the run has ended."""

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from tests.faults.running import CLOCK, MADE, Run, files

YEAR_S = 365 * 86400
TMP = Path("/tmp")          # of a mount namespace of its own


@contextmanager
def kill(run: Run, rng: np.random.Generator) -> Iterator[None]:
    """All processes at once, as by a power cut."""
    run.send(signal.SIGKILL)
    yield


@contextmanager
def kill_dvc(run: Run, rng: np.random.Generator) -> Iterator[None]:
    """DVC alone, whose stage goes on; a second `dvc repro` beside it must not harm it."""
    run.send(signal.SIGKILL, group=False)
    run.process.join()
    second = Run(run.folder, run.stage, dvc=True)
    second.ended(300)
    run.second = second.process.exitcode == 0 or "is already running: process" in second.said()
    run.alone(300)
    yield


@contextmanager
def kill_worker(run: Run, rng: np.random.Generator) -> Iterator[None]:
    """One of the processes that the stage has started, as the system does where memory is short."""
    if children := run.children():
        with suppress(psutil.NoSuchProcess):
            children[rng.integers(len(children))].kill()
    yield


@contextmanager
def terminate(run: Run, rng: np.random.Generator) -> Iterator[None]:
    """As a scheduler does."""
    run.send(signal.SIGTERM, group=False)
    yield


@contextmanager
def interrupt(run: Run, rng: np.random.Generator) -> Iterator[None]:
    """Ctrl-C goes to all processes of a terminal."""
    run.send(signal.SIGINT)
    yield


def fill(folder: Path) -> Path:
    """A file that takes all space."""
    path = folder / ".filler"
    with suppress(OSError), open(path, "wb", buffering=0) as stream:
        while stream.write(bytes(1 << 20)):
            pass
    return path


@contextmanager
def fill_disk(run: Run, rng: np.random.Generator) -> Iterator[None]:
    filler = fill(run.folder)
    yield
    filler.unlink()


@contextmanager
def fill_tmp(run: Run, rng: np.random.Generator) -> Iterator[None]:
    filler = fill(TMP)
    yield
    filler.unlink()


@contextmanager
def with_modes(paths: list[Path], change: int) -> Iterator[None]:
    """Take rights away from files and folders, and give them back."""
    before = {path: path.stat().st_mode for path in paths if path.exists()}
    for path, mode in before.items():
        path.chmod(mode & ~change)
    yield
    for path, mode in before.items():
        with suppress(FileNotFoundError):
            path.chmod(mode)


@contextmanager
def forbid_writing(run: Run, rng: np.random.Generator) -> Iterator[None]:
    folders = [path for name in MADE for path in [run.folder / name, *(run.folder / name).rglob("*")] if path.is_dir()]
    with with_modes(folders, 0o222):
        yield


@contextmanager
def forbid_reading(run: Run, rng: np.random.Generator) -> Iterator[None]:
    """Of a clip, or of another input."""
    given = run.inputs()
    with with_modes([given[rng.integers(len(given))]], 0o777):
        yield


@contextmanager
def delete(run: Run, rng: np.random.Generator) -> Iterator[None]:
    """An input that may just be read."""
    given = run.inputs()
    path = given[rng.integers(len(given))]
    path.rename(run.folder / ".dvc/tmp/deleted")
    yield
    (run.folder / ".dvc/tmp/deleted").rename(path)


@contextmanager
def set_clock_back(run: Run, rng: np.random.Generator) -> Iterator[None]:
    """By a year; what was written before it comes from the future."""
    CLOCK.value = -YEAR_S
    for path in files(run.folder, MADE):
        with suppress(FileNotFoundError):
            os.utime(path, (time.time() + YEAR_S,) * 2)
    yield
    CLOCK.value = 0


@contextmanager
def take_memory(run: Run, rng: np.random.Generator) -> Iterator[None]:
    """The first process gets only a little more than it has."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        limit = psutil.Process(run.process.pid).memory_info().vms + int(rng.integers(1 << 25))
        resource.prlimit(run.process.pid, resource.RLIMIT_AS, (limit, limit))
    yield


class Fault(NamedTuple):
    """inject: a context manager of the run and a random stream. apart: whether it needs a mount namespace of its own."""

    inject: object
    apart: bool = False
    dvc: bool = False
    silent: bool = False        # ends the run without a word
    inputs: bool = False        # strikes an input, which not every stage has
    limit_s: float = 120        # after which the run must have ended


FAULTS = {
    "killed": Fault(kill, silent=True),
    "dvc killed": Fault(kill_dvc, dvc=True, silent=True),
    "worker killed": Fault(kill_worker),
    "SIGTERM": Fault(terminate, limit_s=10),
    "Ctrl-C": Fault(interrupt),
    "disk full": Fault(fill_disk, apart=True),
    "/tmp full": Fault(fill_tmp, apart=True),
    "read-only": Fault(forbid_writing, apart=True),
    "unreadable": Fault(forbid_reading, apart=True, inputs=True),
    "deleted": Fault(delete, inputs=True),
    "clock back": Fault(set_clock_back),
    "no memory": Fault(take_memory),
}
