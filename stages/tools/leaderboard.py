"""All experiments side by side, and which differences are more than noise: `python -m stages.tools.leaderboard [<revision> …]`

reads   metrics, dvc.lock and reports/predictions/<task>.csv of every experiment, of the commits that they derive from and
        of the workspace; seed and `report` of the workspace's params.yaml
writes  <out>/leaderboard.html   self-contained page
        <out>/leaderboard.csv    a row per configuration and task; experiments without scores at the end
"""

import argparse
import json
import math
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from stages.lib.evaluation.comparison import BootstrapBlock, against_best, balanced_accuracies, class_names, predictions
from stages.lib.evaluation.intervals import interval
from stages.lib.evaluation.scores import by_run, outcome_counts
from stages.lib.params import Seed, UserError, require
from stages.lib.report.page import render
from stages.lib.revisions import experiments
from stages.lib.running.stage import run_tool
from stages.tools.experiments import Configuration, changed_parameters, configurations, differences, same_clips

NUMBERS = ("balanced_accuracy", "sd", "low", "high", "frame_accuracy", "published_protocol_accuracy", "difference_to_best",
           "difference_low", "difference_high", "detectable_difference")


def main(revisions: list[str], all_commits: bool, out: Path, seed: Seed, report: BootstrapBlock) -> None:
    """Collect, merge seeds, test, write both files."""
    require(not out.exists() or out.is_dir(), f"--out {out} is a file; name a folder")
    settings = {"samples": report["bootstrap_samples"], "confidence": report["confidence"], "seed": seed}
    found = experiments(revisions, all_commits)
    merged, others = configurations(found)
    asked = any(each["state"] != "done" for each in others)          # queued, running or failed
    require(bool(merged) or asked, "there is no experiment and no result; run `dvc repro` first")
    parts = [{"title": title, **part(members, settings)} for title, members in same_clips(merged)]
    committed = found[1]                                             # after the workspace the newest commit
    unfinished = [{"name": each["name"], "state": each["state"].replace("done", "no scores"),
                   "asked": changed_parameters(each, committed)} for each in others]
    lines = [{"part": number, "scored_on": each["title"], "state": "done", **line}
             for number, each in enumerate(parts, start=1) for line in each["lines"]]
    lines += [{"experiments": each["name"], "state": each["state"], "what_differs": each["asked"]} for each in unfinished]
    out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(lines).round(4).to_csv(out / "leaderboard.csv", index=False, lineterminator="\n")
    phantom = any(one.parameters["collection"] == "phantom" for one in merged)
    page = render("leaderboard.html.j2", parts=parts, unfinished=unfinished, phantom=phantom, count=len(found) - len(others),
                  interval=f"{100 * settings['confidence']:g}\u00a0%", samples=settings["samples"])
    (out / "leaderboard.html").write_text(page, encoding="utf-8")
    print(f"results: {len(found) - len(others)}, configurations: {len(merged)}, experiments without scores: {len(unfinished)}; "
          f"written to {out / 'leaderboard.html'} and {out / 'leaderboard.csv'}")


def part(members: list[Configuration], settings: dict) -> dict:
    """Of configurations that were scored on the same clips: the columns and rows of the page, and the rows of the csv."""
    texts = dict(zip(map(id, members), differences(members), strict=True))
    columns = columns_of(members)
    cells = {label: column(task, runners, settings) for label, (task, runners) in columns.items()}
    rows, lines = [], []
    for one in members:
        pairs = sorted({(coarse, fine) for coarse, fine, _ in one.trainings})
        seeds = [str(fine) if coarse == fine else f"{fine} (pretrained with {coarse})" for coarse, fine in pairs]
        names = [name for run in one.runs for name in run["names"]]
        shared = {"initial_weights": one.start, "what_differs": texts[id(one)], "experiments": ", ".join(names),
                  "seeds": ", ".join(seeds), "n": len(one.trainings)}
        own = {label: cells[label][id(one)] for label in columns if id(one) in cells[label]}
        rows.append(shared | {"cells": own, "n": max((cell["n"] for cell in own.values()), default=shared["n"])})
        lines += [shared | {"task": label} | cell for label, cell in own.items()]
    rows.sort(key=lambda row: -max((cell["balanced_accuracy"] for cell in list(row["cells"].values())[:1]), default=0))
    return {"columns": list(columns), "rows": rows, "lines": lines}


def columns_of(members: list[Configuration]) -> dict[str, tuple[str, list[Configuration]]]:
    """Label → task and its configurations; a task with several lists of classes or subsets becomes several columns."""
    found = {}
    for one in members:
        for task in one.tasks:
            block = {key: value for key, value in one.parameters.items() if key.startswith(f"tasks.{task}.")}
            found.setdefault((task, json.dumps(block, sort_keys=True)), (block, []))[1].append(one)
    tasks = [task for task, _ in found]
    labels = {}
    for (task, _), (block, runners) in found.items():
        several = "; ".join(map(described, block.values())) if tasks.count(task) > 1 else ""
        labels[f"{task} ({several})" if several else task] = (task, runners)
    return labels


def described(value: list | str) -> str:
    """A value of a task's block in words."""
    return ", ".join(map(str, value)) or "all" if isinstance(value, list) else str(value)


def column(task: str, members: list[Configuration], settings: dict) -> dict[int, dict]:
    """The cell of each configuration for one task, by the configuration's id."""
    tables = [pooled(task, one) for one in tqdm(members, desc=task, unit="configuration", disable=None)]
    centres = [centre(task, one, table) for one, table in zip(members, tables, strict=True)]
    tested = against_best([mean for mean, _ in centres], tables, **settings)
    cells = {}
    for one, (mean, spread), table, test in zip(members, centres, tables, tested, strict=True):
        low, high = (one.mean(task, f"balanced_accuracy_{end}") for end in ("low", "high"))
        if len(one.runs) > 1:                                        # no report has the interval of several experiments
            low = high = math.nan
            if isinstance(table, pd.DataFrame):
                low, high = interval(outcome_counts(table, class_names(table)), settings["confidence"])
        numbers = (mean, spread, low, high, one.mean(task, "frame_accuracy"),
                   one.mean(task, "published_protocol_accuracy"), test["difference"], test["low"], test["high"],
                   test["detectable"])
        # a division that is given or leaves one patient out is the only one, whatever the fold seeds: the predictions tell
        count = len(by_run(table)) if isinstance(table, pd.DataFrame) else len(one.trainings)
        cells[id(one)] = dict(zip(NUMBERS, numbers, strict=True)) | {"verdict": test["verdict"], "significant": test["best"],
                                                                     "n": count}
    return cells


def centre(task: str, one: Configuration, table: pd.DataFrame | str) -> tuple[float, float]:
    """Mean and SD of the balanced accuracy over all cross-validations.

    Args:
        table: the predictions; or a text that says why they are missing. Then the metrics are used; in these, the
            cross-validations that another experiment counts cannot be separated.
    """
    if isinstance(table, str):
        return one.mean(task, "balanced_accuracy"), one.spread(task, "balanced_accuracy")
    values = pd.Series(balanced_accuracies(table))
    return float(values.mean()), float(values.std())


def pooled(task: str, one: Configuration) -> pd.DataFrame | str:
    """The clip-level predictions of all cross-validations, numbered in `seed`; or a text that says why they are missing."""
    runs = [run for run in one.runs if run["trainings"]]
    tables = [scored(task, run) for run in runs]
    missing = [reason for reason in tables if isinstance(reason, str)]
    if missing:
        return missing[0]
    parts = [part for run, table in zip(runs, tables, strict=True) for part in by_run(table)
             if not run["counted"] & set(part.get("seed", ()))]
    return pd.concat([part.assign(seed=number) for number, part in enumerate(parts)], ignore_index=True)


def scored(task: str, run: dict) -> pd.DataFrame | str:
    """The predictions behind the run's metrics, or a text that says why they are missing.

    The workspace may hold those of another run: git restores the metrics of a commit, only `dvc checkout` its predictions.
    """
    reason = ""
    for revision in run["revisions"]:
        try:
            table = predictions(task, revision)
        except UserError:
            reason = f"the predictions of {run['names'][0]} are not in the cache"
            continue
        written = run["metrics"][task]["balanced_accuracy"]         # rounded to four digits
        if abs(balanced_accuracies(table).mean() - written) < 1e-4:
            return table
        reason = f"the predictions of {run['names'][0]} do not match its metrics"
    return reason


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m stages.tools.leaderboard", description=__doc__.splitlines()[0])
    parser.add_argument("revisions", nargs="*", help="commits, branches or tags, with the experiments that derive from them; "
                        "default: HEAD and every commit that has experiments")
    parser.add_argument("--all-commits", action="store_true", help="the results of every commit of the branch, too")
    parser.add_argument("--out", type=Path, default=Path("reports"), help="folder to write to (default: reports)")
    run_tool(main, lower="report.bootstrap_samples", **vars(parser.parse_args()))
