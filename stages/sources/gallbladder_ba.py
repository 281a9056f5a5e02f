"""Gallbladder BA: small images of infants' gallbladders, with biliary atresia or without, several views a patient.

The patient numbers of train/ and test/ are separate series, hence patients `train_3` and `test_3`:

    train/  test/
      label.csv               lines file,label: 0 normal, 1 biliary atresia
      <patient>_<view>.jpg
"""

from pathlib import Path

import pandas as pd

from stages.lib.clips import catalogue

TITLE = "Gallbladder BA: images of infants' gallbladders, with biliary atresia or without"
LICENCE = "MIT"
CITATION = (
    "Zhou et al., 'Ensembled deep learning model outperforms human experts in diagnosing biliary atresia from "
    "sonographic gallbladder images', Nature Communications 2021"
)
LINK = "https://github.com/youngyzzZ/Sonographic-Gallbladder-Images-for-BA-Diagnosis"
LAYOUT = "train/ and test/, each with label.csv and the images <patient>_<view>.jpg"


def clips(folder: Path) -> pd.DataFrame:
    """The table of images, each a clip of one frame.

    An image that the list does not name is left out, and so is a listed one that is missing.
    """
    rows = []
    for subset in ("train", "test"):
        lists = [folder / subset / "label.csv"]
        for path, label, reason in catalogue.listed(lists, folder / subset, {"0": "normal", "1": "biliary_atresia"}):
            patient = f"{subset}_{path.name.partition('_')[0]}"
            rows.append(catalogue.row(folder, path, label, patient, subset, reason))
    return catalogue.table(rows, folder, LAYOUT)
