"""Custom: your own clips, in any folder, with a list of them.

    clips.csv       columns path, patient, label; optional clip (id), subset, fps (of a folder of images, or to
                    overrule a video's own)
    <path>          a video file, a folder of images, or an image

A patient or label may be empty: the clip is then a patient of its own, or unlabelled.
"""

from pathlib import Path

import pandas as pd

from stages.lib.clips import catalogue
from stages.lib.params import UserError

TITLE = "Custom: clips of your own"
LICENCE = "not stated; ask whoever made them"
CITATION = "not stated; ask whoever made them"
LINK = ""
LAYOUT = "clips.csv (columns path, patient, label) and the clips that it names"


def clips(folder: Path) -> pd.DataFrame:
    """The table of clips that clips.csv lists.

    Raises:
        UserError: no folder, no clips.csv or none as described.
    """
    path = folder / "clips.csv"
    if not path.exists():
        return catalogue.table([], folder, LAYOUT)
    try:
        entries = pd.read_csv(path, dtype=str, keep_default_na=False)
        names = entries["path"]  # as it stands: a file name may begin with a blank
        frame_rates = pd.to_numeric(entries.get("fps", pd.Series("", entries.index)))
        known = entries.assign(clip=entries.get("clip", names), subset=entries.get("subset", ""))
        known = known[["clip", "subset", "patient", "label"]].apply(lambda column: column.str.strip())
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} must have the columns path, patient, label, and numbers as fps ({error})") from None
    if (frame_rates <= 0).any():
        raise UserError(f"{path}: fps must be above 0, or empty")
    found = zip(names, frame_rates, known.to_dict("records"), strict=True)
    rows = [catalogue.row(folder, folder / name, fps=fps, **rest) for name, fps, rest in found]
    return catalogue.table(rows, folder, LAYOUT)
