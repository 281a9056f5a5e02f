"""Frame stores of the chosen sources → one pretraining set, with an audit of what was left out and why.

reads   data/frames/<source>/           frame stores of the sources, and of the evaluation tasks (their clips never enter)
writes  data/us4/frames.npy             uint8 [N, size_px, size_px]
        data/us4/frames.csv             row, clip, frame, time_s
        data/us4/clips.csv              clip (source/clip), source, patient, label, pooled_class, split, fps, first, frames,
                                        and the geometry of the fan (stages/lib/clips/fan.py)
        reports/us4_audit.csv           source, outcome, reason, clip, copy_of, distance, clips, frames, patients, labels: a
                                        line for all clips of a source that train, one for those held out; then one for each
                                        that is left out or thinned, with the evaluation clip that it looks like and how far
                                        the two are apart
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from stages.lib.clips import copies, store
from stages.lib.clips.tasks import groups, task_clips
from stages.lib.params import UserError, require, run

OUTCOMES = ["train", "held_out", "left_out", "frames_dropped"]


def main(
    seed: int,
    copy_distance: dict,
    sources: list,
    held_out_fraction: float,
    classes: dict,
    extract_frames: dict,
    finetune: dict,
    segment: dict,
    tasks: dict,
) -> None:
    """Assemble the pretraining set (US-4 of Chen et al. 2021 where the sources are its four).

    Args:
        seed: of the split.
        copy_distance: {clips, stills} of clips that are taken for copies of an evaluation clip (stages/lib/clips/copies.py).
        sources: whose clips enter.
        held_out_fraction: of each source's patients (or clips, where patients are unknown), kept for the held-out loss.
        classes: pooled class → the labels it takes in, as `source/label`; a clip with any other label is unlabelled.
        extract_frames: {sources}: those that have been extracted.
        finetune, segment: {tasks}: those whose clips must not enter.
        tasks: classes and subsets of each task.
    """
    require(len(sources) > 0, "params.yaml: assemble_us4.sources is empty; name a source to pretrain on")
    require(0 < held_out_fraction < 1, f"params.yaml: assemble_us4.held_out_fraction is {held_out_fraction}; it needs 0 … 1")
    single = [name for name, labels in classes.items() if not isinstance(labels, list)]
    require(not single, f"params.yaml: assemble_us4.classes.{''.join(single[:1])} must be a list of source/label")
    evaluations = list(dict.fromkeys(finetune["tasks"] + segment["tasks"]))
    wanted = [*sources, *evaluations]
    absent = [name for name in wanted if name not in extract_frames["sources"]]
    require(not absent, f"params.yaml: add {', '.join(absent)} to extract_frames.sources; assemble_us4, finetune or segment "
            "asks for it")
    same = copies.limits(copy_distance)

    rng = np.random.default_rng(seed)
    evaluated = evaluation_clips(evaluations, tasks)
    clips = pd.concat([read_source(source, classes, evaluated, same, held_out_fraction, rng) for source in sources])
    clips = clips.reset_index(drop=True)
    if not (clips["left_out"] == "").any():
        reasons = "; ".join(sorted(set(clips["left_out"])))
        raise UserError(f"no clip of {', '.join(sources)} is left to pretrain on: {reasons}")
    with store.replacing("data/us4") as folder:
        write(clips[clips["left_out"] == ""], folder)
    Path("reports").mkdir(exist_ok=True)
    audit(clips).to_csv("reports/us4_audit.csv", index=False)
    counts = clips["split"].value_counts()
    print(f"data/us4: {counts.get('train', 0)} clips to train on, {counts.get('held_out', 0)} held out, "
          f"{(clips['left_out'] != '').sum()} left out (reports/us4_audit.csv says why)")


class Evaluation(NamedTuple):
    """The clips that tasks are evaluated on, a place each: task/clip, checksum of its files, hashes of its frames."""

    names: list[str]
    checksums: list[str]
    bits: list[np.ndarray]


def evaluation_clips(tasks_evaluated: list, tasks: dict) -> Evaluation:
    """The clips that the tasks use."""
    found = Evaluation([], [], [])
    for task in tasks_evaluated:
        clips = task_clips(task, tasks)
        used = clips[clips["left_out"] == ""]
        found.names.extend(f"{task}/" + used["clip"])
        found.checksums.extend(used["checksum"])
        found.bits.extend(copies.store_hashes(Path("data/frames", task), used["clip"]))
    return found


def read_source(
    source: str, classes: dict, evaluated: Evaluation, limit: copies.Limits, fraction: float, rng: np.random.Generator
) -> pd.DataFrame:
    """The clip table of one source with columns source, pooled_class, split, copy_of and, where they apply, more reasons."""
    clips = keep_out(store.table(Path("data/frames", source, "clips.csv")), source, evaluated, limit)
    pooled = {label: name for name, labels in classes.items() for label in labels}
    clips["pooled_class"] = (source + "/" + clips["label"]).map(pooled).fillna("")
    clips["source"] = source
    kept = clips[clips["left_out"] == ""]
    clips["split"] = split(groups(kept), fraction, rng).reindex(clips.index, fill_value="")
    return clips


def keep_out(clips: pd.DataFrame, source: str, evaluated: Evaluation, limit: copies.Limits) -> pd.DataFrame:
    """The leak guard: a reason for each clip that a task is evaluated on or that looks like it; `copy_of`, which it is, and
    `distance`, how far the two are apart (null where they are the same file)."""
    files = dict(zip(evaluated.checksums, evaluated.names, strict=True))
    clips["copy_of"] = clips["checksum"].where(clips["left_out"] == "", "").map(lambda checksum: files.get(checksum, ""))
    clips["left_out"] = clips["left_out"].mask(clips["copy_of"] != "", "is an evaluation clip")
    clips["distance"] = np.nan
    free = clips.index[clips["left_out"] == ""]
    bits = copies.store_hashes(Path("data/frames", source), clips["clip"][free])
    apart, near = copies.compare(bits, evaluated.bits, limit)
    for row in np.flatnonzero(near.any(axis=1)):
        nearest = np.where(near[row], apart[row], 1).argmin()
        clips.loc[free[row], ["left_out", "copy_of"]] = ["looks like an evaluation clip", evaluated.names[nearest]]
        clips.loc[free[row], "distance"] = round(float(apart[row, nearest]), 2)
    return clips


def split(group: pd.Series, fraction: float, rng: np.random.Generator) -> pd.Series:
    """train or held_out for each clip, whole groups at a time; a single group trains."""
    names = np.sort(group.unique())
    held_out = rng.permutation(names)[: round(fraction * len(names))]
    return pd.Series(np.where(group.isin(held_out), "held_out", "train"), index=group.index)


def write(clips: pd.DataFrame, folder: Path) -> None:
    """Copy the kept clips' frames one source after the other into `folder`, and the tables that describe them."""
    total = int(clips["frames_kept"].sum())
    size = store.read(Path("data/frames", clips["source"].iloc[0])).frames.shape[1:]
    frames = np.lib.format.open_memmap(folder / "frames.npy", mode="w+", dtype=np.uint8, shape=(total, *size))
    tables, filled = [], 0
    for source, part in clips.groupby("source", sort=False):
        have = store.read(Path("data/frames", source))
        require(have.frames.shape[1:] == size, f"data/frames/{source} has frames of {have.frames.shape[1:]}, not {size}; "
                "run `dvc repro` to extract all sources at one size")
        rows = have.frame_table[have.frame_table["clip"].isin(part["clip"])]
        frames[filled : filled + len(rows)] = have.frames[rows["row"].to_numpy()]
        tables.append(rows.assign(clip=source + "/" + rows["clip"]))
        filled += len(rows)
    frames.flush()
    table = pd.concat(tables).reset_index(drop=True)
    table.assign(row=table.index)[["row", "clip", "frame", "time_s"]].to_csv(folder / "frames.csv", index=False)
    kept = clips.assign(clip=clips["source"] + "/" + clips["clip"], frames=clips["frames_kept"])
    kept["first"] = kept["frames"].cumsum() - kept["frames"]
    columns = ["clip", "source", "patient", "label", "pooled_class", "split", "fps", "first", "frames"]
    kept.reindex(columns=columns + store.FAN).to_csv(folder / "clips.csv", index=False)


def audit(clips: pd.DataFrame) -> pd.DataFrame:
    """How many clips, frames, known patients and clips of each label, by source and outcome; each clip that is left out or
    thinned has a line of its own, with the reason and, of a copy, the evaluation clip."""
    taken = clips.assign(outcome=clips["split"].where(clips["left_out"] == "", "left_out"), frames=clips["frames_kept"])
    black = clips[(clips["left_out"] == "") & (clips["frames_black"] > 0)]
    black = black.assign(outcome="frames_dropped", left_out="all-black frames", frames=black["frames_black"])
    rows = pd.concat([taken, black]).rename(columns={"left_out": "reason"})
    rows["order"] = rows["outcome"].map(OUTCOMES.index)
    rows["name"] = rows["clip"].where(rows["reason"] != "", "")
    keys = ["source", "order", "outcome", "reason", "name", "copy_of", "distance"]
    table = rows.groupby(keys, as_index=False, dropna=False).agg(
        clips=("clip", "size"),
        frames=("frames", "sum"),
        patients=("patient", lambda patients: patients[patients != ""].nunique()),
        labels=("label", count),
    )
    return table.drop(columns="order").rename(columns={"name": "clip"})


def count(labels: pd.Series) -> str:
    """`<label> <clips>, …`, the unlabelled last."""
    numbers = labels.value_counts().to_dict()
    return ", ".join(f"{name or 'unlabelled'} {numbers[name]}" for name in sorted(numbers, key=lambda name: (name == "", name)))


if __name__ == "__main__":
    run(main, stage="assemble_us4")
