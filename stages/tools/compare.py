"""Whether two runs differ by more than noise: `python -m stages.tools.compare <run> <run> [<task> …]`

A run is an experiment, branch or commit, or `workspace`. Both must have predicted the same clips of a task in the same folds.

reads   reports/predictions/<task>.csv of both runs; seed and `report` of the workspace's params.yaml
writes  nothing; prints a few lines per task
"""

import argparse
import io
import sys

import pandas as pd

from stages.lib import scores
from stages.lib.params import UserError, read, require, show


def main(first: str, second: str, tasks: list[str]) -> None:
    """Print both balanced accuracies (clip level), their difference with its paired interval, and McNemar's test."""
    params = show()
    samples, confidence = params["report"]["bootstrap_samples"], params["report"]["confidence"]
    for task in tasks or params["finetune"]["tasks"]:
        tables = [clips(task, run) for run in (first, second)]
        print(describe(task, (first, second), tables, samples, confidence, params["seed"]))


def clips(task: str, run: str) -> pd.DataFrame:
    """The clip-level predictions of a run, a line per seed and clip."""
    text = read(f"reports/predictions/{task}.csv", run)
    texts = dict.fromkeys(("clip", "patient", "group", "label"), str)
    return scores.clip_level(pd.read_csv(io.StringIO(text), dtype=texts, keep_default_na=False))


def describe(task: str, runs: tuple[str, str], tables: list[pd.DataFrame], samples: int, confidence: float, seed: int) -> str:
    """The lines on one task. With several seeds the balanced accuracies are means over them, and McNemar's test is left out.

    Raises:
        UserError: the runs predicted other clips, classes or folds.
    """
    parts = [scores.by_seed(table) for table in tables]
    first, second = (seeds[0] for seeds in parts)                   # every seed of a run has the same clips
    names = [[column for column in table if column.startswith("p_")] for table in tables]
    same = [first[column].equals(second[column]) for column in ("clip", "label", "patient", "fold")]
    require(names[0] == names[1] and all(same), f"{task}: {runs[0]} and {runs[1]} predicted other clips, classes "
            "or folds; compare runs that share extract_frames, the task's block, finetune.folds and finetune.fold_seed")
    classes = [column.removeprefix("p_") for column in names[0]]
    each = [pd.Series([scores.scores(part, classes)["balanced_accuracy"] for part in seeds]) for seeds in parts]
    values = [of_seeds.mean() for of_seeds in each]
    spread = [f", SD {of_seeds.std():.3f} over {len(of_seeds)} seeds" if len(of_seeds) > 1 else "" for of_seeds in each]
    low, high = scores.paired_interval(*tables, classes, samples, confidence, seed)
    verdict = "within noise" if low <= 0 <= high else f"{runs[1] if low > 0 else runs[0]} is better"
    said = (f"{task}: balanced accuracy {values[0]:.3f} ({runs[0]}{spread[0]}), {values[1]:.3f} ({runs[1]}{spread[1]}): "
            f"difference {values[1] - values[0]:+.3f} ({100 * confidence:g} % interval {low:+.3f} to {high:+.3f}), {verdict}")
    if any(spread):
        return said
    only_first, only_second, p = scores.mcnemar(first, second, classes)
    return (f"{said}\n{' ' * len(task)}  of {len(first)} clips {only_first} are right in {runs[0]} only, {only_second} in "
            f"{runs[1]} only: McNemar p = {p:.2g}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m stages.tools.compare", description=__doc__.splitlines()[0])
    parser.add_argument("first", help="experiment, branch, commit or `workspace`")
    parser.add_argument("second", help="the other one")
    parser.add_argument("tasks", nargs="*", help="default: finetune.tasks of params.yaml")
    try:
        main(**vars(parser.parse_args()))
    except UserError as error:
        sys.exit(f"error: {error}")
