"""Is the difference of two runs' balanced accuracies more than noise? Both predicted the same held-out clips."""

import io
from typing import Annotated

import numpy as np
import pandas as pd
from annotated_types import Gt, Lt
from scipy.special import ndtri
from scipy.stats import binomtest

from stages.lib.evaluation import intervals, scores
from stages.lib.params import Count, UserError, having, require
from stages.lib.revisions import read

Confidence = Annotated[float, Gt(0), Lt(1)]
BootstrapBlock = having(bootstrap_samples=Count, confidence=Confidence)       # the block `report`, for a tool


def predictions(task: str, run: str) -> pd.DataFrame:
    """The clip-level predictions of a run (experiment, branch, commit or `workspace`), a row per run and clip.

    Raises:
        UserError: no such run, or its predictions are not in the cache.
    """
    return clip_table(read(f"reports/predictions/{task}.csv", run))


def clip_table(text: str) -> pd.DataFrame:
    """The clip-level table of a prediction file."""
    texts = dict.fromkeys(("clip", "patient", "group", "label"), str)
    return scores.clip_level(pd.read_csv(io.StringIO(text), dtype=texts, keep_default_na=False))


def balanced_accuracies(table: pd.DataFrame) -> np.ndarray:
    """Balanced accuracy of each run (division and seed) of a clip-level table."""
    return scores.balanced_accuracies(table, class_names(table))


def class_names(table: pd.DataFrame) -> list[str]:
    """The classes of a table, in the order of their columns p_<class>."""
    return [column.removeprefix("p_") for column in table if column.startswith("p_")]


def held_out(table: pd.DataFrame) -> set[str]:
    """A fingerprint of classes, clips, labels, groups and folds per seed; runs can be compared if the sets are equal."""
    columns = [name for name in ("clip", "label", "patient", "group", "fold") if name in table]
    return {str(class_names(table)) + part[columns].to_csv(index=False) for part in scores.by_run(table)}


def compare(
    task: str, runs: tuple[str, str], tables: list[pd.DataFrame], samples: int, confidence: float, seed: int
) -> dict:
    """The difference of two runs, second − first.

    Args:
        runs: their names.
        tables: clip-level predictions of both.
        samples, confidence, seed: of the bootstrap over patients.

    Returns:
        values, spreads: balanced accuracy of each run, and its SD over divisions and seeds (NaN for one of each).
        difference, low, high, verdict: of the second run to the first, its paired interval, and the verdict in words.
        detectable: the smallest true difference that these patients show with 80 % power (intervals.py).
        only_first, only_second, p, clips: McNemar's test; only if both runs have one division and seed.

    Raises:
        UserError: the runs predicted different clips, classes or folds.
    """
    first, second = runs
    require(held_out(tables[0]) == held_out(tables[1]), f"{task}: {first} and {second} predicted different clips, "
            "classes or folds; compare runs that share extract_frames, copy_distance, the task's block, finetune.folds and "
            ".fold_seeds")
    each = [balanced_accuracies(table) for table in tables]
    low, high = intervals.paired_interval(*map(_counts, tables), samples, confidence, seed)
    detectable = intervals.detectable_difference(*map(_counts, tables), samples, confidence, seed)
    found = {"values": [float(values.mean()) for values in each],
             "spreads": [float(values.std(ddof=1)) if len(values) > 1 else np.nan for values in each],
             "difference": float(each[1].mean() - each[0].mean()), "low": low, "high": high,
             "detectable": detectable}
    found["verdict"] = "within noise" if low <= 0 <= high else f"{second if low > 0 else first} is better"
    if max(len(values) for values in each) == 1:
        tested = mcnemar(*tables, class_names(tables[0]))
        found |= dict(zip(("only_first", "only_second", "p"), tested, strict=True)) | {"clips": len(tables[0])}
    return found


def mcnemar(first: pd.DataFrame, second: pd.DataFrame, classes: list[str]) -> tuple[int, int, float]:
    """The exact test of McNemar (1947) on the clips of two tables.

    It treats clips as independent, which those of one patient are not: p is somewhat too small.

    Returns:
        Clips that only the first run predicts rightly, clips that only the second does, and p.
    """
    right = [scores.predicted(table, classes) == table["label"].to_numpy() for table in (first, second)]
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    differ = only_first + only_second
    return only_first, only_second, float(binomtest(only_first, differ).pvalue) if differ else 1.0


def _counts(table: pd.DataFrame) -> np.ndarray:
    return scores.outcome_counts(table, class_names(table))


def against(task: str, baseline: str, own: pd.DataFrame, samples: int, confidence: float, seed: int) -> dict:
    """This run against a baseline, for the report.

    A missing baseline is no error: it must not stop a queue of runs at its last stage.

    Returns:
        name, and either the result of `compare` with baseline_low and baseline_high, the interval of the baseline's own
        score; or note, a sentence that says why the two cannot be compared.
    """
    try:
        table = predictions(task, baseline)
        found = compare(task, (baseline, "this run"), [table, own], samples, confidence, seed)
    except UserError as error:
        return {"name": baseline, "note": str(error)}
    low, high = intervals.interval(_counts(table), confidence)
    return {"name": baseline, "baseline_low": low, "baseline_high": high} | found


def against_best(
    values: list[float], tables: list[pd.DataFrame | str], samples: int, confidence: float, seed: int
) -> list[dict]:
    """Is the best of several runs better than each of the others by more than noise?

    The best is compared with every other run. As it is chosen by its score, the intervals are those that hold together for all
    pairs of runs (`intervals.simultaneous`): the chance of any false difference is about 1 − confidence.

    Args:
        values: balanced accuracy of every run.
        tables: their clip-level predictions; or a text that says why there are none.

    Returns:
        For every run difference (best − run), low, high, detectable (as in `compare`, of the wider interval), verdict,
        and best: True for a run that is better than all others.
    """
    first = int(np.argmax(values))
    clips = [held_out(table) if isinstance(table, pd.DataFrame) else table for table in tables]
    same = [number for number, each in enumerate(clips) if each == clips[first] and not isinstance(each, str)]
    if same:        # the best has predictions
        spread, reach = intervals.simultaneous([_counts(tables[number]) for number in same], samples, confidence, seed)
    found = []
    for number, value in enumerate(values):
        numbers = {"difference": values[first] - value, "low": np.nan, "high": np.nan, "detectable": np.nan,
                   "best": False}
        missing = [reason for reason in (clips[first], clips[number]) if isinstance(reason, str)]
        if number == first:
            numbers["verdict"] = ""
        elif missing:
            numbers["verdict"] = f"not tested: {missing[0]}"
        elif clips[number] != clips[first]:
            numbers["verdict"] = "not tested: other clips or folds than the best"
        else:
            deviation = spread[same.index(first), same.index(number)]
            low, high = (float(numbers["difference"] + sign * reach * deviation) for sign in (-1, 1))
            numbers["detectable"] = float((reach + ndtri(intervals.POWER)) * deviation)
            numbers |= {"low": low, "high": high, "verdict": "worse than the best" if low > 0 else "within noise of the best"}
        found.append(numbers)
    others = [numbers["verdict"] for number, numbers in enumerate(found) if number != first]
    worse = sum(verdict == "worse than the best" for verdict in others)
    found[first] |= {"best": worse == len(others) > 0,
                     "verdict": f"highest; beyond noise above {worse} of {len(others)} others" if others else "the only one"}
    return found
