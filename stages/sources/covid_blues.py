"""COVID-BLUES: lung videos of 63 patients, by the BLUE protocol, with findings per video and a PCR test per patient.

    lus_videos/patient_<id>_<L|R><zone>[_2].mp4   as in the public repository, or in videos/; _2: the zone was filmed twice
    severity.csv               columns video_file (without suffix), Severity Score, A-lines, B-lines
    clinical_variables.csv     columns patient_id, cov_test

The clips have no label. A task takes its classes from one of the columns that the two csv files fill; a field is empty where
a file, or its line for the clip, is missing:

    severity    0.0, 1.0, 2.0 or 3.0, by two experts
    a_lines     yes or no
    b_lines     yes or no
    pcr         0 or 1, of the patient
"""

import re
from pathlib import Path

import pandas as pd

from stages.lib.clips import catalogue, lists

TITLE = "COVID-BLUES: lung videos of 63 patients by the BLUE protocol, Maastricht University Medical Center"
LICENCE = "CC BY-NC-ND 4.0"
CITATION = (
    "Wiedemann et al., 'COVID-BLUeS - a prospective study on the value of AI in lung ultrasound analysis', IEEE "
    "JBHI 2025, arXiv 2509.10556"
)
LINK = "https://github.com/NinaWie/COVID-BLUES"
LAYOUT = "lus_videos/ or videos/ with patient_<id>_<L|R><zone>.mp4"
FINDINGS = {"Severity Score": "severity", "A-lines": "a_lines", "B-lines": "b_lines"}      # of a video, in severity.csv


def clips(folder: Path) -> pd.DataFrame:
    """The table of videos with their findings; the patient is '' where the name has another form.

    Raises:
        UserError: no folder, no video, or a csv file without the columns above.
    """
    videos = folder / "lus_videos"
    findings = _by_key(folder / "severity.csv", "video_file", FINDINGS)
    tests = _by_key(folder / "clinical_variables.csv", "patient_id", {"cov_test": "pcr"})
    rows = []
    for path in catalogue.recordings(videos if videos.is_dir() else folder / "videos"):
        found = re.match("patient_([^_]+)_", path.name)
        patient = found[1] if found else ""
        known = findings.get(path.stem, {}) | tests.get(patient, {})
        rows.append(catalogue.row(folder, path, "", patient) | dict.fromkeys([*FINDINGS.values(), "pcr"], "") | known)
    return catalogue.table(rows, folder, LAYOUT)


def _by_key(path: Path, key: str, columns: dict[str, str]) -> dict[str, dict[str, str]]:
    """What the file says of each clip or patient, under our names for its columns; nothing where there is no such file."""
    if not path.exists():
        return {}
    entries = lists.read(path, [key, *columns])[[key, *columns]]
    return lists.by_key(path, entries.rename(columns=columns), key)
