"""Do two runs differ by more than noise? `python -m stages.tools.compare <run> <run> [<task> …]`

A run is an experiment, branch or commit, or `workspace`. Both must have predicted the same clips of a task in the same folds.

reads   reports/predictions/<task>.csv of both runs; seed and `report` of the workspace's params.yaml
writes  nothing; prints a few lines per task
"""

import argparse
import sys

import pandas as pd

from stages.lib.evaluation.comparison import compare, predictions
from stages.lib.evaluation.scores import by_run
from stages.lib.params import UserError
from stages.lib.running.stage import show


def main(first: str, second: str, tasks: list[str]) -> None:
    """Print both balanced accuracies (clip level), their difference with its paired interval, and McNemar's test."""
    params = show()
    samples, confidence = params["report"]["bootstrap_samples"], params["report"]["confidence"]
    for task in tasks or params["finetune"]["tasks"]:
        tables = [predictions(task, run) for run in (first, second)]
        print(describe(task, (first, second), tables, samples, confidence, params["seed"]))


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
    parser.add_argument("second", help="the other one")
    parser.add_argument("tasks", nargs="*", help="default: finetune.tasks of params.yaml")
    try:
        main(**vars(parser.parse_args()))
    except UserError as error:
        sys.exit(f"error: {error}")
