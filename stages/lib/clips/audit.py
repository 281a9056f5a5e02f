"""What became of the clips that a pretraining set was assembled from, in numbers and by clip."""

import numpy as np
import pandas as pd

# train, held_out: the clip is in the set. left_out: it is not; the reason says why. frames_dropped: some of its frames are not.
# copy: it looks like another clip of the set, copy_of. uncertain_crop: its crop may be wrong (reports/crops/<source>.html).
# frames_damaged: some could not be decoded. noted: what was not believed. burned_in: names may stand in its picture.
OUTCOMES = ["train", "held_out", "left_out", "frames_dropped", "copy", "uncertain_crop", "frames_damaged", "noted", "burned_in"]
BURNED_IN = {"yes": "its file says so", "text": "letters inside its crop"}


def audit(clips: pd.DataFrame) -> pd.DataFrame:
    """How many clips, frames, known patients and clips of each label, by source and outcome. Each clip with something to report
    has a line of its own, with the reason."""
    entered = clips["left_out"] == ""
    outcome = clips["split"].where(entered, "left_out")
    taken = clips.assign(outcome=outcome, reason=clips["left_out"], frames=clips["frames_kept"])
    taken.loc[entered, ["copy_of", "distance"]] = ["", np.nan]
    notes = [taken]
    for outcome, reasons, frames in (
        ("frames_dropped", np.where(clips["frames_black"] > 0, "all-black frames", ""), clips["frames_black"]),
        ("frames_dropped", np.where(clips["frames_odd"] > 0, "frames unlike the rest of the clip", ""), clips["frames_odd"]),
        ("copy", clips["copy_reason"], clips["frames_kept"]),
        ("uncertain_crop", clips["crop_uncertain"], clips["frames_kept"]),
        ("frames_damaged", np.where(clips["frames_damaged"] > 0, "damaged frames", ""), clips["frames_damaged"]),
        ("noted", clips["notes"], clips["frames_kept"]),
        ("burned_in", clips["burned_in"].map(BURNED_IN).fillna(""), clips["frames_kept"]),
    ):
        noted = clips.assign(outcome=outcome, reason=reasons, frames=frames)[entered & (reasons != "")]
        notes.append(noted if outcome == "copy" else noted.assign(copy_of="", distance=np.nan))
    rows = pd.concat(notes)
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
