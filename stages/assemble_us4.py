"""Frame stores of the chosen sources → one pretraining set, with an audit of what was left out and why.

reads   data/frames/<source>/           frame stores of the sources, and of the evaluation tasks (their clips never enter)
writes  data/us4/frames.npy             uint8 [N, size_px, size_px]
        data/us4/frames.csv             row, clip, frame, time_s
        data/us4/clips.csv              clip (source/clip), source, patient, label, pooled_class, split, fps, first, frames,
                                        and the geometry of the fan (stages/lib/clips/fan.py)
        reports/us4_audit.csv           source, outcome, reason, clip, copy_of, distance, clips, frames, patients, labels: for
                                        each source a line for all clips that train and one for those held out; then a line
                                        for each clip with something to report, by OUTCOMES of audit.py
"""

from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
from annotated_types import Gt, Lt, MinLen
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from stages.lib.clips import copies, matching, store
from stages.lib.clips.audit import audit
from stages.lib.clips.tasks import Task, groups, read_task
from stages.lib.params import Names, Seed, UserError, different, having, require
from stages.lib.running.stage import run


def _label(text: str) -> str:
    if "/" not in text.strip("/"):
        raise PydanticCustomError("label", "a source and its label, like clust/Rb1")
    return text


Labels = Annotated[list[Annotated[str, AfterValidator(_label)]], MinLen(1), AfterValidator(different)]


def main(
    seed: Seed,
    copy_distance: copies.CopyDistance,
    sources: Annotated[Names, MinLen(1)],
    held_out_fraction: Annotated[float, Gt(0), Lt(1)],
    classes: dict[str, Labels],
    extract_frames: having(sources=Names),
    finetune: having(tasks=Names),
    segment: having(tasks=Names),
    tasks: dict,
) -> None:
    """Assemble the pretraining set (US-4 of Chen et al. 2021 where the sources are its four).

    Args:
        seed: of the split.
        copy_distance: {clips, stills}: distance up to which two clips are taken for copies (stages/lib/clips/copies.py).
        sources: whose clips enter.
        held_out_fraction: of each source's patients (or clips, where patients are unknown), kept for the held-out loss.
        classes: pooled class → the labels it takes in, as `source/label`; a clip with any other label is unlabelled.
        extract_frames: {sources}: those that have been extracted.
        finetune, segment: {tasks}: those whose clips must not enter.
        tasks: the block of each task; the clips of their outside tests must not enter either.
    """
    named = [read_task(name, tasks) for name in dict.fromkeys(finetune["tasks"] + segment["tasks"])]
    evaluations = [task for each in named for task in (each, *each.external)]
    wanted = dict.fromkeys([*sources, *(task.source for task in evaluations)])
    absent = [name for name in wanted if name not in extract_frames["sources"]]
    require(not absent, f"params.yaml: assemble_us4.sources or a task needs {', '.join(absent)}; correct the name, or add it "
            "to extract_frames.sources")
    same = copies.limits(copy_distance)

    evaluated = evaluation_clips(evaluations)
    clips = pd.concat([read_source(source, classes, evaluated, same) for source in sources], ignore_index=True)
    if not (clips["left_out"] == "").any():
        reasons = "; ".join(sorted(set(clips["left_out"])))
        raise UserError(f"no clip of {', '.join(sources)} is left to pretrain on: {reasons}; name other sources in "
                        "assemble_us4.sources, or add clips of patients that no task uses, such as unlabelled ones")
    clips = join_copies(clips, same)
    clips["split"] = split(clips, sources, held_out_fraction, np.random.default_rng(seed))
    with store.replacing("data/us4") as folder:
        write(clips[clips["left_out"] == ""], folder)
    store.write_csv("reports/us4_audit.csv", audit(clips))
    counts = clips["split"].value_counts()
    print(f"data/us4: {counts.get('train', 0)} clips to train on, {counts.get('held_out', 0)} held out, "
          f"{(clips['left_out'] != '').sum()} left out (reports/us4_audit.csv says why)")


class Evaluation(NamedTuple):
    """The clips that tasks are evaluated on: source/clip, checksum of the files, hashes of the frames; known source/patient."""

    names: list[str]
    checksums: list[str]
    bits: list[np.ndarray]
    patients: list[str]


def evaluation_clips(tasks: list[Task]) -> Evaluation:
    """The clips that any of the tasks uses."""
    found = Evaluation([], [], [], [])
    for source in dict.fromkeys(task.source for task in tasks):
        clips = pd.concat([task.clips() for task in tasks if task.source == source])
        used = clips[clips["left_out"] == ""].drop_duplicates("clip")
        found.names.extend(f"{source}/" + used["clip"])
        found.checksums.extend(used["checksum"])
        found.patients.extend(f"{source}/" + used["patient"][used["patient"] != ""])
        found.bits.extend(copies.store_hashes(Path("data/frames", source), used["clip"]))
    return found


def read_source(source: str, classes: dict, evaluated: Evaluation, limit: copies.Limits) -> pd.DataFrame:
    """The clip table of one source with columns source, pooled_class, group, crop_uncertain, frames_odd, copy_of, distance and,
    where they apply, more reasons."""
    clips = keep_out(store.table(Path("data/frames", source, "clips.csv")), source, evaluated, limit)
    pooled = {label: name for name, labels in classes.items() for label in labels}
    clips["pooled_class"] = (source + "/" + clips["label"]).map(pooled).fillna("")
    return clips.assign(source=source, group=source + "/" + groups(clips))


def keep_out(clips: pd.DataFrame, source: str, evaluated: Evaluation, limit: copies.Limits) -> pd.DataFrame:
    """The leak guard: a reason for each clip that a task is evaluated on, that looks like it or shows the same patient of the
    same source; `copy_of`, which it is, and `distance`, how far the two are apart (null where they are the same file)."""
    files = dict(zip(evaluated.checksums, evaluated.names, strict=True))
    clips["copy_of"] = clips["checksum"].where(clips["left_out"] == "", "").map(lambda checksum: files.get(checksum, ""))
    clips["left_out"] = clips["left_out"].mask(clips["copy_of"] != "", "is an evaluation clip")
    same = (clips["left_out"] == "") & (source + "/" + clips["patient"]).isin(evaluated.patients)
    clips["left_out"] = clips["left_out"].mask(same, "is of a patient that a task is evaluated on")
    clips["distance"] = np.nan
    free = clips.index[clips["left_out"] == ""]
    bits = copies.store_hashes(Path("data/frames", source), clips["clip"][free])
    nearest = matching.nearest(matching.near(bits, evaluated.bits, limit))
    rows = free[nearest["one"]]
    clips.loc[rows, "left_out"] = "looks like an evaluation clip"
    clips.loc[rows, "copy_of"] = np.array(evaluated.names, object)[nearest["other"]]
    clips.loc[rows, "distance"] = nearest["distance"].to_numpy(float).round(2)
    return clips


def join_copies(clips: pd.DataFrame, limit: copies.Limits) -> pd.DataFrame:
    """The leak guard inside the set: copies come into one group, and lose their pooled class where they have different ones.

    Args:
        clips: of all sources. Compared are those that enter.
    """
    used = clips[clips["left_out"] == ""]
    bits = [hashes for source, part in used.groupby("source", sort=False)
            for hashes in copies.store_hashes(Path("data/frames", source), part["clip"])]
    near = pd.concat([same_files(used["checksum"]), matching.near_within(bits, limit, "data/us4")])
    found = copies.pool(used.assign(clip=used["source"] + "/" + used["clip"]), near.drop_duplicates(["one", "other"]))
    clips = clips.assign(copy_reason="")
    clips.loc[used.index, found.columns] = found
    return clips


def same_files(checksums: pd.Series) -> pd.DataFrame:
    """The pairs of clips of one checksum, as copies at distance 0, as `matching.near_within` gives pairs."""
    places = pd.DataFrame({"checksum": checksums.to_numpy(), "one": range(len(checksums))})
    pairs = places.merge(places.rename(columns={"one": "other"}), on="checksum").query("one != other")
    return pairs[["one", "other"]].assign(distance=np.float32(0))


def split(clips: pd.DataFrame, sources: list[str], fraction: float, rng: np.random.Generator) -> np.ndarray:
    """train or held_out for each clip that enters, '' for the others; whole groups at a time.

    Of each source a fraction of the groups is held out; a single group trains. A group with clips of several sources goes where
    the first of these sources puts it.
    """
    held_out, decided = set(), set()
    kept = clips[clips["left_out"] == ""]
    for source in sources:
        names = set(kept.loc[kept["source"] == source, "group"])
        free = np.array(sorted(names - decided))
        wanted = max(0, round(fraction * len(names)) - len(names & held_out))
        held_out |= set(rng.permutation(free)[:wanted])
        decided |= names
    side = np.where(clips["group"].isin(held_out), "held_out", "train")
    return np.where(clips["left_out"] == "", side, "")


def write(clips: pd.DataFrame, folder: Path) -> None:
    """Copy the kept clips' frames one source after the other into `folder`, and the tables that describe them."""
    total = int(clips["frames_kept"].sum())
    size = store.read(Path("data/frames", clips["source"].iloc[0])).frames.shape[1:]
    frames = store.empty(folder / "frames.npy", (total, *size))
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


if __name__ == "__main__":
    run(main, stage="assemble_us4", lower="extract_frames.max_frames_per_clip or extract_frames.size_px")
