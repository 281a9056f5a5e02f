"""Two runs that predicted the same held-out clips: is the difference of their balanced accuracies more than noise?"""

import io

import numpy as np
import pandas as pd

from stages.lib.evaluation import scores
from stages.lib.params import UserError, require
from stages.lib.revisions import read


def predictions(task: str, run: str) -> pd.DataFrame:
    """The clip-level predictions of a run (experiment, branch, commit or `workspace`), a line per seed and clip.

    Raises:
        UserError: no such run, or its predictions are not in the cache.
    """
    return clip_table(read(f"reports/predictions/{task}.csv", run))


def clip_table(text: str) -> pd.DataFrame:
    """The clip-level table of a prediction file."""
    texts = dict.fromkeys(("clip", "patient", "group", "label"), str)
    return scores.clip_level(pd.read_csv(io.StringIO(text), dtype=texts, keep_default_na=False))


def balanced_accuracies(table: pd.DataFrame) -> np.ndarray:
    """Balanced accuracy of each seed of a clip-level table."""
    return np.array([scores.scores(part, class_names(table))["balanced_accuracy"] for part in scores.by_seed(table)])


def class_names(table: pd.DataFrame) -> list[str]:
    """The classes that a table has probabilities of, in their order."""
    return [column.removeprefix("p_") for column in table if column.startswith("p_")]


def held_out(table: pd.DataFrame) -> set[str]:
    """What was predicted, and in which folds: a text per seed, equal where two runs can be compared patient by patient."""
    columns = ["clip", "label", "patient", "fold"]
    return {str(class_names(table)) + part[columns].to_csv(index=False) for part in scores.by_seed(table)}


def compare(
    task: str, runs: tuple[str, str], tables: list[pd.DataFrame], samples: int, confidence: float, seed: int
) -> dict:
    """The difference of the second run and the first.

    Args:
        runs: what the two are called.
        tables: clip-level predictions of both.
        samples, confidence, seed: of the bootstrap over patients.

    Returns:
        values and spreads: balanced accuracy of either run, and its SD over seeds (NaN for one seed).
        difference, low, high, verdict: second − first, its paired interval, and what that says.
        only_first, only_second, p, clips: McNemar's test. Left out where a run has several seeds.

    Raises:
        UserError: the runs predicted other clips, classes or folds.
    """
    first, second = runs
    require(held_out(tables[0]) == held_out(tables[1]), f"{task}: {first} and {second} predicted other clips, classes "
            "or folds; compare runs that share extract_frames, the task's block, finetune.folds and finetune.fold_seed")
    each = [balanced_accuracies(table) for table in tables]
    low, high = scores.paired_interval(*tables, class_names(tables[0]), samples, confidence, seed)
    found = {"values": [float(values.mean()) for values in each],
             "spreads": [float(values.std(ddof=1)) if len(values) > 1 else np.nan for values in each],
             "difference": float(each[1].mean() - each[0].mean()), "low": low, "high": high,
             "verdict": "within noise" if low <= 0 <= high else f"{second if low > 0 else first} is better"}
    if max(len(values) for values in each) == 1:
        tested = scores.mcnemar(*tables, class_names(tables[0]))
        found |= dict(zip(("only_first", "only_second", "p"), tested, strict=True)) | {"clips": len(tables[0])}
    return found


def against(task: str, baseline: str, own: pd.DataFrame, samples: int, confidence: float, seed: int) -> dict:
    """This run against a baseline, for the report: `compare`, the baseline's own interval, or a note where that cannot be.

    A baseline that is missing is no error: a queue of runs must not stop at its last stage for it.

    Returns:
        name; either note, a sentence; or what `compare` returns, and baseline_low, baseline_high.
    """
    try:
        table = predictions(task, baseline)
        found = compare(task, (baseline, "this run"), [table, own], samples, confidence, seed)
    except UserError as error:
        return {"name": baseline, "note": str(error)}
    low, high = scores.bootstrap_interval(table, class_names(table), samples, confidence, seed)
    return {"name": baseline, "baseline_low": low, "baseline_high": high} | found


def against_best(
    values: list[float], tables: list[pd.DataFrame | str], samples: int, confidence: float, seed: int
) -> list[dict]:
    """Whether the best of several runs is better than each of the others by more than noise.

    Every other run is compared with the best by the paired interval of their difference, at the confidence that leaves the
    chance of any false difference at 1 − confidence in all comparisons together (Bonferroni).

    Args:
        values: balanced accuracy of every run.
        tables: their clip-level predictions; or a text, why there are none.

    Returns:
        For every run difference (best − run), low, high, verdict; and `best`: True for a run that is better than all others.
    """
    first = int(np.argmax(values))
    level = 1 - (1 - confidence) / max(len(values) - 1, 1)
    clips = [held_out(table) if isinstance(table, pd.DataFrame) else table for table in tables]
    found = []
    for number, table in enumerate(tables):
        numbers = {"difference": values[first] - values[number], "low": np.nan, "high": np.nan, "best": False}
        missing = [reason for reason in (clips[first], clips[number]) if isinstance(reason, str)]
        if number == first:
            numbers["verdict"] = ""
        elif missing:
            numbers["verdict"] = f"not tested: {missing[0]}"
        elif clips[number] != clips[first]:
            numbers["verdict"] = "not tested: other clips or folds than the best"
        else:
            low, high = scores.paired_interval(table, tables[first], class_names(table), samples, level, seed)
            numbers |= {"low": low, "high": high, "verdict": "worse than the best" if low > 0 else "within noise of the best"}
        found.append(numbers)
    others = [numbers["verdict"] for number, numbers in enumerate(found) if number != first]
    told = sum(verdict == "worse than the best" for verdict in others)
    found[first] |= {"best": told == len(others) > 0,
                     "verdict": f"highest; beyond noise above {told} of {len(others)} others" if others else "the only one"}
    return found
