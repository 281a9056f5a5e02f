"""COVID-BLUES: lung videos of 63 patients, by the BLUE protocol; a pretraining source, unlabelled here.

The name holds patient, side and zone, and a 2 where a zone was filmed twice:

    lus_videos/patient_<id>_<L|R><zone>[_2].mp4          as in the public repository; videos/ does, too
"""

import re
from pathlib import Path

import pandas as pd

from stages.lib.clips import catalogue

TITLE = "COVID-BLUES: lung videos of 63 patients by the BLUE protocol, Maastricht University Medical Center"
LICENCE = "CC BY-NC-ND 4.0"
CITATION = (
    "Wiedemann et al., 'COVID-BLUeS - a prospective study on the value of AI in lung ultrasound analysis', IEEE "
    "JBHI 2025, arXiv 2509.10556"
)
LINK = "https://github.com/NinaWie/COVID-BLUES"
LAYOUT = "lus_videos/ or videos/ with patient_<id>_<L|R><zone>.mp4"


def clips(folder: Path) -> pd.DataFrame:
    """The table of videos; the patient is '' where the name has another form."""
    rows = []
    videos = folder / "lus_videos"
    for path in catalogue.recordings(videos if videos.is_dir() else folder / "videos"):
        patient = re.match("patient_([^_]+)_", path.name)
        rows.append(catalogue.row(folder, path, "", patient[1] if patient else ""))
    return catalogue.table(rows, folder, LAYOUT)
