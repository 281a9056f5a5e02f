"""Do two runs differ by more than noise? `python -m stages.tools.compare <run> <run> [<task> …]`

A run is an experiment, branch or commit, or `workspace`. Both must have predicted the same clips of a task in the same folds.

reads   reports/predictions/<task>.csv and params.yaml of both runs; seed and `report` of the workspace's params.yaml
writes  nothing; prints a few lines per task
"""

import argparse

import pandas as pd
import yaml

from stages.lib.evaluation.comparison import BootstrapBlock, compare, predictions
from stages.lib.evaluation.scores import by_run
from stages.lib.params import Seed, require
from stages.lib.revisions import read
from stages.lib.running.stage import run_tool


def main(first: str, second: str, names: list[str], seed: Seed, report: BootstrapBlock, tasks: dict) -> None:
    """Print both balanced accuracies (clip level), their difference with its paired interval, and McNemar's test.

    Args:
        first, second: the runs.
        names: of the tasks; none: those that both runs were evaluated on. The other arguments are keys of params.yaml.

    Raises:
        UserError: an unknown task, or a run without its predictions, or predictions of other clips, classes or folds.
    """
    own, others = evaluated(first), evaluated(second)
    both, known = [name for name in own if name in others], dict.fromkeys([*tasks, *own, *others])
    unknown = [name for name in names if name not in known]
    require(not unknown, f"{', '.join(unknown)} is no task; choose from {', '.join(known)}")
    require(bool(names or both), f"{first} and {second} share no task: {first} has {', '.join(own) or 'none'}, {second} has "
            f"{', '.join(others) or 'none'}")
    for task in names or both:
        tables = [predictions(task, run) for run in (first, second)]
        print(describe(task, (first, second), tables, report["bootstrap_samples"], report["confidence"], seed))


def evaluated(run: str) -> list[str]:
    """The tasks of a run: finetune.tasks of its params.yaml."""
    params = yaml.safe_load(read("params.yaml", run))
    return (params.get("finetune") or {}).get("tasks") or []


def describe(task: str, runs: tuple[str, str], tables: list[pd.DataFrame], samples: int, confidence: float, seed: int) -> str:
    """The text on one task. With several cross-validations it has the mean balanced accuracies, and no McNemar test."""
    found = compare(task, runs, tables, samples, confidence, seed)
    counts = [len(by_run(table)) for table in tables]
    spread = [f", SD {sd:.3f} over {count} cross-validations" if count > 1 else ""
              for sd, count in zip(found["spreads"], counts, strict=True)]
    values = found["values"]
    text = (f"{task}: balanced accuracy {values[0]:.3f} ({runs[0]}{spread[0]}), {values[1]:.3f} ({runs[1]}{spread[1]}): "
            f"difference {found['difference']:+.3f} ({100 * confidence:g} % interval {found['low']:+.3f} to "
            f"{found['high']:+.3f}), {found['verdict']}; the smallest true difference that these patients show with 80 % "
            f"power is {found['detectable']:.3f}")
    if "p" not in found:
        return text
    return (f"{text}\n{' ' * len(task)}  of {found['clips']} clips {found['only_first']} are right in {runs[0]} only, "
            f"{found['only_second']} in {runs[1]} only: McNemar p = {found['p']:.2g}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m stages.tools.compare", description=__doc__.splitlines()[0])
    parser.add_argument("first", help="experiment, branch, commit or `workspace`")
    parser.add_argument("second", help="the other run")
    parser.add_argument("names", metavar="task", nargs="*", help="default: the tasks that both runs were evaluated on")
    run_tool(main, lower="report.bootstrap_samples", **vars(parser.parse_args()))
