"""DICOM: a folder of DICOM files as a scanner or archive exports it, in any folders below, with or without a DICOMDIR.

    <any path>      DICOM files of any suffix, or none, single-frame or multi-frame: a clip each
    DICOMDIR        optional; the files that it lists are clips, too
    clips.csv       optional: column path; label, patient, subset, fps, clip (id) where you know them, left_out (a reason)

A patient is a salted hash of PatientID: the salt is SONOPAIR_SALT, or lies beside the folder in <folder>_salt.txt. Keep it
secret. With the same salt the same patient has the same hash.
"""

import math
import os
from pathlib import Path

import pandas as pd
from pydicom import dcmread

from stages.lib.clips import catalogue, lists
from stages.lib.clips.readers.dicom import header
from stages.lib.clips.readers.dicom import patient as dicom_patient
from stages.lib.clips.readers.recording import Unreadable

TITLE = "DICOM: clips as your scanner or archive exports them"
LICENCE = "not stated; ask whoever made them"
CITATION = "not stated; ask whoever made them"
LINK = ""
LAYOUT = "DICOM files, in any folders below it"
OPTIONAL = ("label", "patient", "subset", "fps", "clip", "left_out")


def clips(folder: Path) -> pd.DataFrame:
    """The table of DICOM files; whatever else lies there is left out with a reason.

    Raises:
        UserError: no folder, no file, or a clips.csv without the column path.
    """
    told = _told(folder)
    secret = dicom_patient.salt(folder) if folder.is_dir() else b""
    there = catalogue.recordings(folder)
    found = dict.fromkeys(path for path in there if path.name.upper() != "DICOMDIR")
    for path in [*_listed(there), *(folder / name for name in told)]:
        found.setdefault(path)
    rows = [row for path in found for row in _rows(folder, path, told.get(_below(folder, path), [{}]), secret)]
    table = catalogue.table(rows, folder, LAYOUT)
    unknown = ((table["patient"] == "") & (table["left_out"] == "")).sum()
    if unknown:
        print(f"{folder}: {unknown} clips name no patient: each counts as a patient of its own. If some share a patient, "
              "the scores are too high")
    return table


def _rows(folder: Path, path: Path, lines: list[dict], secret: bytes) -> list[dict]:
    """A line of the table for each line of clips.csv that names a file: one without entries, where none does."""
    dicom = dicom_patient.is_dicom(path)
    patient, ultrasound = dicom_patient.identity(path, secret) if dicom else ("", True)
    reason = "" if dicom or not catalogue.may_be_read(path) else "not a DICOM file"
    reason = reason or ("" if ultrasound else "not ultrasound: it has another modality")
    return [catalogue.row(folder, path, line.get("label", ""), line.get("patient") or patient, line.get("subset", ""),
                          reason or line.get("left_out", ""), line.get("clip") or _below(folder, path),
                          line.get("fps", math.nan)) for line in lines]  # fmt: skip


def _told(folder: Path) -> dict[str, list[dict]]:
    """Path below the folder → the lines of clips.csv about it."""
    path, told = folder / "clips.csv", {}
    for number, line in lists.read(path, ["path"], OPTIONAL).to_dict("index").items() if path.exists() else ():
        place = f"{path}, line {number}"
        file = _below(folder, folder / lists.file(folder, line.pop("path"), place))
        rate = {"fps": lists.frame_rate(line.pop("fps", ""), place)}
        told.setdefault(file, []).append({name: lists.plain(value) for name, value in line.items()} | rate)
    return told


def _below(folder: Path, path: Path) -> str:
    """The path from the folder on, in one spelling."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _listed(there: list[Path]) -> list[Path]:
    """The files that the DICOMDIRs among those found name, there or not."""
    files = []
    for index in (path for path in there if path.name.upper() == "DICOMDIR"):
        try:
            with header.quiet():
                records = dcmread(index).DirectoryRecordSequence
                names = [record.ReferencedFileID for record in records if "ReferencedFileID" in record]
        except Unreadable:  # a damaged index: the files are found without it
            continue
        parts = [[name] if isinstance(name, str) else list(name) for name in names]
        files += [index.parent.joinpath(*name) for name in parts if ".." not in name and not name[0].startswith("/")]
    return files
