"""Faults at random moments of every stage; what is there afterwards, and after a second run: python -m tests.faults --help

Each run starts one stage of a project whose pipeline has run on the smallest phantoms; its outputs are there or, as DVC does
it, removed. The fault must leave every file whole or absent, and one sentence. Unless the run was finished nevertheless, it is
then repeated without a fault, and must leave the bytes of an undisturbed run and nothing else.

    hit         runs that the fault ended; the others were done before it, or did not mind it
    sentences   of the runs that it hit, those that said one sentence and no trace; a SIGKILL leaves none
    whole       of all runs, those that left no file half-written, and no other file if they could clear it away
    same        of all runs, those whose repetition gave the same bytes
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from tests.faults.campaign import Campaign
from tests.faults.injections import FAULTS, TMP
from tests.faults.running import STAGES
from tests.project import ROOT, Project, started

APART = "SONOPAIR_FAULTS_APART"         # set in a mount namespace of its own
NAMESPACE = ["unshare", "--map-root-user", "--mount", "setpriv", "--bounding-set=-dac_override,-dac_read_search"]


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
