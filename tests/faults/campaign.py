"""A project in which stages run with and without faults, and what must be there after a run."""

import hashlib
import shutil
import time
from pathlib import Path

import numpy as np

from tests.faults.injections import Fault
from tests.faults.running import MADE, Run, files, outputs


def contents(folder: Path) -> dict[str, str]:
    """A hash of every file that the pipeline made."""
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files(folder, MADE)}


class Campaign:
    """A project that every run begins with the results of an undisturbed run."""

    def __init__(self, folder: Path):
        self.folder, self.kept = folder, folder.with_name("kept")
        for name in MADE:
            shutil.copytree(folder / name, self.kept / name)
        self.expected = contents(folder)
        self.seconds: dict[str, float] = {}

    def reset(self, removed: list[str]) -> None:
        """Put all results back, but for those that are removed."""
        for name in MADE:
            shutil.rmtree(self.folder / name)
            shutil.copytree(self.kept / name, self.folder / name)
        for path in map(self.folder.joinpath, removed):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(self.folder / ".dvc/tmp/stages", ignore_errors=True)

    def undisturbed(self, stage: str) -> None:
        """A run without a fault, which tells how long the stage takes."""
        self.reset(outputs(self.folder, stage))
        run = Run(self.folder, stage)
        run.begun()
        assert run.ended(600) and run.process.exitcode == 0, run.said()
        self.seconds[stage] = time.monotonic() - run.since
        print(f"{stage}: {self.seconds[stage]:.1f} s", flush=True)
        now = contents(self.folder)
        assert now == self.expected, (stage, sorted(name for name, _ in now.items() ^ self.expected.items()))

    def disturbed(self, stage: str, fault: Fault, rng: np.random.Generator) -> dict:
        """One run with a fault and its repetition: what the table counts, and what the run said."""
        gone = outputs(self.folder, stage) if rng.random() < 0.5 or fault.dvc else []
        self.reset(gone)
        moment = rng.uniform(0, self.seconds[stage])
        run = Run(self.folder, stage, fault.dvc)
        run.begun()
        time.sleep(moment)
        alive = run.process.is_alive()
        with fault.inject(run, rng):
            in_time = run.ended(fault.limit_s) and run.alone(10)
        status, said, left = run.process.exitcode, run.said(), contents(self.folder)
        hit = alive and status != 0
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        sentence = fault.silent or (status == 1 and len(lines) == 1 and "Traceback" not in said)
        done = status == 0 and left == self.expected
        now = left if done else self.repeated(stage)
        return {"hit": hit, "in_time": in_time and getattr(run, "second", True), "sentence": sentence or not hit,
                "whole": self.whole(left, [] if fault.silent else gone, fault, status),
                "same": now == self.expected, "moment": moment, "status": status,
                "removed": bool(gone), "said": said[-1500:], "line": "".join(lines)[:160],
                "strange": [name for name in sorted({*left, *now, *self.expected})
                            if {left.get(name), now.get(name)} != {self.expected.get(name)}]}

    def repeated(self, stage: str) -> dict[str, str]:
        """What is there after a run without a fault; nothing if it failed."""
        shutil.rmtree(self.folder / ".dvc/tmp/stages")                  # so that it is seen when the run begins
        run = Run(self.folder, stage)
        run.begun()
        run.ended(600)
        self.seconds[stage] = min(self.seconds[stage], time.monotonic() - run.since)       # less when the machine is less busy
        return contents(self.folder) if run.process.exitcode == 0 else {"": run.said()}

    def whole(self, left: dict[str, str], gone: list[str], fault: Fault, status: int) -> bool:
        """Whether every file is as it should be or, if it was removed, absent.

        A run that a SIGKILL ended may leave other files beside them. A clip that cannot be read any more may be left out.
        """
        if fault.inputs and status == 0:
            return left.keys() == self.expected.keys()
        changed = [name for name in left if left[name] != self.expected.get(name)]
        other = [name for name in changed if name not in self.expected and not name.endswith(".unfinished")]
        missing = [name for name in self.expected.keys() - left.keys() if not name.startswith(tuple(gone))]
        return not [name for name in changed if name in self.expected] and (fault.silent or not (other or missing))
