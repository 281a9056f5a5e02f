"""A stage as a process of its own in a project's folder, started quickly, and what can be seen of it from outside."""

import multiprocessing
import os
import runpy
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import yaml

from stages import assemble_us4, extract_frames, finetune, pretrain, report, segment, simulate  # noqa: F401 (children have them)

FORK = multiprocessing.get_context("fork")      # a child has imported everything: a run costs a second less than ten
CLOCK = FORK.Value("d", 0.0)                    # seconds by which the clock of the stage is set forward
ITEMS = {"extract_frames": "pocus", "finetune": "pocus", "segment": "breast"}
STAGES = ("simulate", "extract_frames", "assemble_us4", "pretrain", "finetune", "segment", "report")
MADE = ("data", "models", "reports")
OTHERS = ("dvc.yaml", "dvc.lock", ".gitignore", "trainings.csv")


class Run:
    """One run of a stage; it ends by itself, or by a fault.

    Args:
        folder: of a project whose pipeline has run.
        dvc: whether `dvc repro` starts the stage, which is then a child of this process.
    """

    def __init__(self, folder: Path, stage: str, dvc: bool = False):
        self.folder, self.stage, self.log = folder, stage, os.memfd_create("log")      # no full disk stops it
        self.words = [stage, *filter(None, [ITEMS.get(stage)])]
        self.holder = folder / f".dvc/tmp/stages/{'_'.join(self.words)}.json"
        self.process = FORK.Process(target=self._dvc if dvc else self._direct)
        self.process.start()
        self.since = None

    def _prepare(self) -> None:
        """In the child: a process group of its own, the project's folder, and all that it says in a file."""
        os.setsid()
        os.chdir(self.folder)
        for number in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(self.log, number)
        signal.signal(signal.SIGINT, signal.default_int_handler)        # a shell's background job ignores it

    def _direct(self) -> None:
        self._prepare()
        real = time.time
        time.time = lambda: real() + CLOCK.value
        sys.argv = self.words
        del sys.modules[f"stages.{self.stage}"]                         # Python warns of a module that runs a second time
        runpy.run_module(f"stages.{self.stage}", run_name="__main__", alter_sys=True)

    def _dvc(self) -> None:
        self._prepare()
        target = "@".join(self.words) if self.stage != "simulate" else "data/dvc.yaml:simulate"
        os.execvp(sys.executable, [sys.executable, "-m", "dvc", "repro", "--single-item", "--force", target])

    def begun(self, timeout_s: float = 120) -> bool:
        """Wait until the stage has read its parameters and holds its lock; False if it ended before."""
        end = time.monotonic() + timeout_s
        while not self.holder.exists() and self.process.is_alive() and time.monotonic() < end:
            time.sleep(0.01)
        self.since = time.monotonic()
        return self.process.is_alive()

    def ended(self, timeout_s: float) -> bool:
        """Wait for the end of the first process; a run that takes longer is killed."""
        self.process.join(timeout_s)
        late = self.process.is_alive()
        if late:
            self.send(signal.SIGKILL)
            self.process.join()
        return not late

    def send(self, number: int, group: bool = True) -> None:
        """A signal to all processes of the run, or to the first one."""
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.process.pid, number)

    def children(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def alone(self, timeout_s: float) -> bool:
        """Wait until no process of the run is left."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.05)
        return False

    def said(self) -> str:
        return os.pread(self.log, 1 << 20, 0).decode(errors="replace")

    def inputs(self) -> list[Path]:
        """The data files that dvc.yaml names as dependencies of the stage."""
        return files(self.folder, _described(self.folder, self.stage, "deps"))

    def outputs(self) -> list[str]:
        return outputs(self.folder, self.stage)


def outputs(folder: Path, stage: str) -> list[str]:
    """What the stage makes, as dvc.yaml names it."""
    return [path for kind in ("outs", "metrics", "plots") for path in _described(folder, stage, kind)]


def _described(folder: Path, stage: str, kind: str) -> list[str]:
    """Paths that dvc.yaml names below data, models and reports."""
    pipeline = yaml.safe_load((folder / ("data/dvc.yaml" if stage == "simulate" else "dvc.yaml")).read_text())
    block = pipeline["stages"][stage]
    names = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in block.get("do", block).get(kind, [])]
    names = [name.replace("${item}", ITEMS.get(stage, "")).replace("${collection}", "phantom") for name in names]
    return [name for name in names if name.split("/")[0] in MADE]


def files(folder: Path, names: tuple[str, ...] | list[str]) -> list[Path]:
    """All files at or below the paths, but for the pipeline's own and for the log of the times that trainings took."""
    found = [path for name in names for path in ([folder / name] if (folder / name).is_file() else (folder / name).rglob("*"))]
    return sorted(path for path in found if path.is_file() and path.name not in OTHERS)
