"""Faults at random moments of every stage; what is there afterwards, and after a second run: python -m tests.faults --help

Each run starts one stage of a project whose pipeline has run on the smallest phantoms; its outputs are there or, as DVC does
it, removed. The fault must leave every file whole or absent, and one sentence. The run is then repeated without a fault, and
must leave the bytes of an undisturbed run and nothing else.

    hit         runs that the fault ended; the others were done before it, or did not mind it
    sentences   of the runs that it hit, those that said one sentence and no trace; a SIGKILL leaves none
    whole       of all runs, those that left no file half-written, and no other file if they could clear it away
    same        of all runs, those whose repetition gave the same bytes
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from tests.faults.injections import FAULTS, TMP, Fault
from tests.faults.running import MADE, STAGES, Run, files, outputs
from tests.project import ROOT, Project, started

APART = "SONOPAIR_FAULTS_APART"         # set in a mount namespace of its own
NAMESPACE = ["unshare", "--map-root-user", "--mount", "setpriv", "--bounding-set=-dac_override,-dac_read_search"]


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
        again = Run(self.folder, stage)
        again.begun()
        again.ended(600)
        self.seconds[stage] = min(self.seconds[stage], time.monotonic() - again.since)     # less where the machine is less busy
        now = contents(self.folder)
        return {"hit": hit, "in_time": in_time and getattr(run, "second", True), "sentence": sentence or not hit,
                "whole": self.whole(left, [] if fault.silent else gone, fault, status),
                "same": again.process.exitcode == 0 and now == self.expected, "moment": moment, "status": status,
                "removed": bool(gone), "said": said[-1500:], "line": "".join(lines)[:160],
                "strange": [name for name in sorted({*left, *now, *self.expected})
                            if {left.get(name), now.get(name)} != {self.expected.get(name)}]}

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


def main(project: Path | None, runs: int, seed: int, stages: list[str], faults: list[str]) -> bool:
    """Run the campaign and print its table; True if nothing was wrong."""
    faults = [name for name in faults if not FAULTS[name].apart or APART in os.environ]
    faults = [name for name in faults if name != "/tmp full" or not ROOT.is_relative_to(TMP)]       # it would hide the code
    pairs = [(fault, stage) for fault in faults for stage in stages if stage != "simulate" or not FAULTS[fault].inputs]
    rng = np.random.default_rng(seed)
    with space() as place:
        folder = prepared(place / "project", project)
        if "/tmp full" in faults:
            mount(TMP, 16)
        campaign = Campaign(folder)
        for stage in stages:
            campaign.undisturbed(stage)
        order = [pairs[number] for _ in range(-(-runs // len(pairs))) for number in rng.permutation(len(pairs))]
        results = []
        for fault, stage in order[:runs]:
            result = campaign.disturbed(stage, FAULTS[fault], rng)
            results.append({"fault": fault, "stage": stage} | result)
            tell(results[-1])
    table = pd.DataFrame(results)
    print(f"\nseed {seed}, {runs} runs: {', '.join(faults)}\n\n{counted(table, 'fault')}\n\n{counted(table, 'stage')}\n\n"
          f"runs with the same bytes / runs\n{by_both(table)}")
    return bool(table[["in_time", "sentence", "whole", "same"]].all(axis=None))


@contextmanager
def space() -> Iterator[Path]:
    """A place for the project: a small file system in memory, which vanishes with the namespace, or a temporary folder."""
    if APART in os.environ:
        mount(Path("/mnt"), 1024)
        yield Path("/mnt")
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def mount(place: Path, size_mib: int) -> None:
    """A file system in memory, seen by this process and its children alone."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", place], check=True)


def prepared(folder: Path, project: Path | None) -> Path:
    """A project with two tasks whose pipeline has run: a copy, or a new one with the smallest phantoms."""
    if project:
        shutil.copytree(project, folder, symlinks=True, ignore=shutil.ignore_patterns("cache", ".venv"))
        os.environ.update(Project(folder).environment)
        return folder
    fresh = started(folder)
    os.environ.update(fresh.environment)
    fresh.change(finetune__tasks=["pocus"], segment__tasks=["breast"], report__bootstrap_samples=100)
    fresh.commit("Two tasks")
    fresh.run("dvc repro")
    return folder


def tell(result: dict) -> None:
    """Print a line about a run, and all about one that went wrong."""
    wrong = [name for name in ("in_time", "sentence", "whole", "same") if not result[name]]
    print("{stage:15} {fault:14} {moment:5.2f} s  exit {status}  {line}".format(**result), flush=True)
    if wrong:
        print(f"WRONG {', '.join(wrong)}; outputs removed before: {result['removed']}; other bytes: {result['strange'][:10]}\n"
              f"{result['said']}", flush=True)


def counted(table: pd.DataFrame, column: str) -> str:
    hit = table["hit"]
    counts = table.assign(sentences=table["sentence"] & hit, runs=1).rename(columns={"in_time": "in time"})
    return counts.groupby(column, sort=False)[["runs", "hit", "sentences", "in time", "whole", "same"]].sum().to_string()


def by_both(table: pd.DataFrame) -> str:
    cells = table.groupby(["fault", "stage"], sort=False)["same"].agg(lambda same: f"{same.sum()}/{len(same)}")
    return cells.unstack(fill_value="").to_string()


if __name__ == "__main__":
    layout = {"description": __doc__, "formatter_class": argparse.RawTextHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m tests.faults", **layout)
    parser.add_argument("--project", type=Path, help="a finished project to copy; default: a new one, of the smallest phantoms")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    given = vars(parser.parse_args())
    if APART not in os.environ and shutil.which("setpriv") and not os.system(" ".join([*NAMESPACE, "true"])):
        os.environ[APART] = "1"
        os.execvp(NAMESPACE[0], [*NAMESPACE, sys.executable, "-m", "tests.faults", *sys.argv[1:]])
    sys.exit(0 if main(**given) else 1)
