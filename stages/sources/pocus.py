"""POCUS: lung videos of COVID-19, pneumonia and healthy lungs, the classification benchmark.

The catalogue knows the patients. The beginning of the file name is the label:

    [videos/]convex/                         Cov… Pneu… Reg… Vir…   .mp4 .avi .mov .mpeg .gif
    [videos/]linear/[label_uncertain/]       also Vir_or_Pneu…
    metadata.csv                             columns Filename (without suffix), Patient ID / Name;
                                             or beside the folder: <folder>_metadata.csv
"""

from pathlib import Path

import pandas as pd

from stages.lib.clips import catalogue, lists
from stages.lib.params import UserError

TITLE = "POCUS: lung videos of COVID-19, pneumonia and healthy lungs, from many public places"
LICENCE = "file by file, in its metadata.csv: CC BY, CC BY-NC, CC BY-NC-SA, COVID-19 emergency licences"
CITATION = (
    "Born et al., 'Accelerating detection of lung pathologies with explainable ultrasound image analysis', Applied "
    "Sciences 2021, doi 10.3390/app11020672"
)
LINK = "https://github.com/jannisborn/covid19_ultrasound"
LAYOUT = "convex/ and linear/ with the videos, in videos/ or directly, and metadata.csv"
LABELS = {"vir_or_pneu": "uncertain", "cov": "covid", "pneu": "pneumonia", "reg": "regular", "vir": "viral"}


def clips(folder: Path) -> pd.DataFrame:
    """The table of videos; the subset is the probe's, the patient '' where the catalogue names none.

    Raises:
        UserError: no folder, no video, no catalogue.
    """
    videos = folder / "videos" if (folder / "videos").is_dir() else folder
    rows, patients = [], {}
    for path, subset, reason in catalogue.by_class(videos, ("convex", "linear")):
        patients = patients or _patients(folder)
        label = next((LABELS[start] for start in LABELS if path.name.lower().startswith(start)), "")
        reason = reason.replace("label", "probe") or ("" if label else "label unknown: not Cov…, Pneu…, Reg… or Vir…")
        rows.append(catalogue.row(folder, path, label, patients.get(path.stem, ""), subset, reason))
    return catalogue.table(rows, folder, LAYOUT)


def _patients(folder: Path) -> dict[str, str]:
    """File name without suffix → patient, from the catalogue; '' for a name of two videos of different patients."""
    path = folder / "metadata.csv"
    path = path if path.exists() else folder.with_name(f"{folder.name}_metadata.csv")
    try:
        entries = lists.read(path, ["Filename", "Patient ID / Name"])
    except FileNotFoundError:
        raise UserError(f"{folder / 'metadata.csv'} is missing: fetch it with the data set, for its patients") from None
    known = entries["Patient ID / Name"].str.strip().groupby(entries["Filename"].str.strip())
    return known.agg(lambda names: names.iloc[0] if names.nunique() == 1 else "").to_dict()
