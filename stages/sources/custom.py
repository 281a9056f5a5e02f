"""Custom: your own clips, in any folder, with a list of them.

    clips.csv       columns path, patient, label; optional clip (id), subset, fps (of a folder of images, or to overrule a
                    video's own), masks (files of an image's lesions, ';' between them), fold or split (a division of the
                    patients), left_out (a reason), and any other column that a task takes its classes from
    <path>          a file of any kind that docs/clips.md lists, or a folder of images; from the folder of clips.csv

A patient or label may be empty: the clip is then a patient of its own (a DICOM file: the patient that it names, as a hash), or
unlabelled.
"""

from pathlib import Path

import pandas as pd

from stages.lib.clips import catalogue, extraction, lists
from stages.lib.clips.readers.dicom import patient as dicom_patient
from stages.lib.params import require

TITLE = "Custom: clips of your own"
LICENCE = "not stated; ask whoever made them"
CITATION = "not stated; ask whoever made them"
LINK = ""
LAYOUT = "clips.csv (columns path, patient, label) and the clips that it names"
OWN = {*extraction.COLUMNS, "rows", "picture", "group", "stratum"}       # columns that the pipeline itself adds
OPTIONAL = ("clip", "subset", "fps", "masks", "fold", "split", "left_out")


def clips(folder: Path) -> pd.DataFrame:
    """The table of clips that clips.csv lists, and its further columns.

    Raises:
        UserError: no folder, no clips.csv, or none as described.
    """
    path = folder / "clips.csv"
    if not path.exists():
        return catalogue.table([], folder, LAYOUT)
    entries = lists.read(path, ["path", "patient", "label"], OPTIONAL)
    taken = ", ".join(sorted(OWN.intersection(entries)))
    require(not taken, f"{path} has a column that the pipeline fills in itself; rename {taken}")
    rows = [_row(folder, line, f"{path}, line {number}") for number, line in entries.to_dict("index").items()]
    table = catalogue.table(rows, folder, LAYOUT)
    if (table["patient"] == "").all():
        print(f"{path} names no patient: each clip counts as a patient of its own. If clips share a patient, the scores are "
              "too high")
    return table


def _row(folder: Path, line: dict[str, str], place: str) -> dict:
    """The line of the table for a line of clips.csv, which is at `place`."""
    file = lists.file(folder, line.pop("path"), place)
    fps = lists.frame_rate(line.pop("fps", ""), place)
    line = {name: lists.plain(value) for name, value in line.items()}
    own = {name: line.pop(name, "") for name in ("clip", "patient", "label", "subset", "left_out")}
    own["clip"] = own["clip"] or file.as_posix()
    if not own["patient"] and dicom_patient.is_dicom(folder / file):
        own["patient"], _ = dicom_patient.identity(folder / file, dicom_patient.salt(folder))
    if "masks" in line:
        line["masks"] = ";".join(str(folder / lists.file(folder, name, place)) for name in line["masks"].split(";") if name)
    return catalogue.row(folder, folder / file, fps=fps, **own) | line
