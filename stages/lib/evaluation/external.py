"""Outside tests: the networks for use, trained on all patients of a task, predict the clips of another source once."""

from pathlib import Path

import numpy as np
import pandas as pd

from stages.lib.clips import copies, matching, store
from stages.lib.clips.tasks import Task
from stages.lib.evaluation.fine_tuning import Recipe, predict
from stages.lib.evaluation.preparation import TaskClips, TaskFrames, load_frames
from stages.lib.networks.backbone import Classifier
from stages.lib.params import require

CLIPS = ["test", "clip", "patient", "label", "copy_of", "left_out"]
PREDICTIONS = ["test", "seed", "clip", "patient", "group", "frame", "label"]


def test_name(task: Task, outside: Task) -> str:
    """<task>_on_<source>, and _<target> if the classes do not come from the column `label`."""
    return f"{task.name}_on_{outside.source}" + (f"_{outside.target}" if outside.target != "label" else "")


def outside_frames(clips: TaskClips, copy_distance: dict) -> dict[str, tuple[pd.DataFrame, TaskFrames]]:
    """The clip table and the frames of every outside test of a task, by the name of the test.

    The leak guard leaves out clips that look like a clip of the task.

    Raises:
        UserError: the frames of the other source were taken in another way, or a class has no clip.
    """
    task, found, limits = clips.task, {}, copies.limits(copy_distance)
    names = [test_name(task, outside) for outside in task.external]
    require(len(set(names)) == len(names), f"params.yaml: tasks.{task.name}.external has two tests of one source and target")
    for name, outside in zip(names, task.external, strict=True):
        mine, theirs = (store.facts(f"data/frames/{source}") for source in (task.source, outside.source))
        require(mine == theirs, f"tasks.{task.name}.external: data/frames/{outside.source} and data/frames/{task.source} hold "
                "frames that were taken differently; run `dvc repro` to extract both alike")
        table = copies.mark(outside.clips(), f"data/frames/{outside.source}", limits)
        table = without_copies(table, outside, clips, limits)
        outside.require_all(table)
        found[name] = table, load_frames(outside, table[table["left_out"] == ""])
    return found


def without_copies(table: pd.DataFrame, outside: Task, clips: TaskClips, limits: copies.Limits) -> pd.DataFrame:
    """The clip table of an outside test, where clips that look like a clip of the task are left out."""
    used, own = table[table["left_out"] == ""], clips.used["clip"].to_numpy()
    bits = [copies.store_hashes(f"data/frames/{source}", names) for source, names in (
        (outside.source, used["clip"]), (clips.task.source, own))]
    table = table.copy()
    for pair in matching.nearest(matching.near(*bits, limits)).itertuples():
        table.loc[used.index[pair.one], ["copy_of", "left_out"]] = [
            f"{clips.task.source}/{own[pair.other]} (distance {pair.distance:.2f})", "looks like a clip of the task"]
    return table


def predictions(
    networks: dict[int, Classifier], tests: dict[str, tuple[pd.DataFrame, TaskFrames]], task: Task, recipe: Recipe
) -> pd.DataFrame:
    """A row per test, seed and frame: PREDICTIONS and p_<class> of every class of the task.

    A class that a test does not have gets the probability 0, and the others are divided by their sum.

    Args:
        networks: by seed.
        tests: as `outside_frames` returns them.
    """
    found, columns = [], [f"p_{name}" for name in task.classes]
    for (name, (_, frames)), outside in zip(tests.items(), task.external, strict=True):
        for seed, network in networks.items():
            rows = frames.labels.new_tensor(range(len(frames.table)))
            logits = predict(network, frames, rows, recipe.views).cpu().double()
            logits[:, [name not in outside.values for name in task.classes]] = -np.inf
            values = pd.DataFrame(logits.softmax(1).numpy().round(6), columns=columns)
            found.append(frames.table.assign(test=name, seed=seed)[PREDICTIONS].join(values))
    return pd.concat(found) if found else pd.DataFrame(columns=[*PREDICTIONS, *columns])


def write(folder: str | Path, tests: dict[str, tuple[pd.DataFrame, TaskFrames]], predicted: pd.DataFrame) -> None:
    """predictions.csv, and clips.csv with CLIPS: who is tested, who is left out and why; without rows if there is no test."""
    clips = [table.assign(test=name)[CLIPS] for name, (table, _) in tests.items()]
    with store.replacing(folder) as partial:
        predicted.to_csv(partial / "predictions.csv", index=False)
        (pd.concat(clips) if clips else pd.DataFrame(columns=CLIPS)).to_csv(partial / "clips.csv", index=False)
