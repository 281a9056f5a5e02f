"""Gallbladder: videos (GBUSV) and still images (GBCU) of normal, benign and malignant gallbladders.

Basu et al., MICCAI 2022 (GBUSV) and CVPR 2022, "Surpassing the human accuracy: detecting gallbladder cancer from USG
images with curriculum learning" (GBCU); gbc-iitd.github.io/data, on request to the authors. One of the two will do:

    GBUSV/normal/  benign/  malignant/      video files or folders of frames: <patient>_<…>, or without patient
    GBCU/imgs/<name>.jpg                    still images, patients unknown
    GBCU/train.txt  test.txt                lines name,label: 0 normal, 1 benign, 2 malignant
"""

from pathlib import Path

import pandas as pd

from stages.lib import catalogue

LAYOUT = "GBUSV/<class>/ with videos, or GBCU/ with imgs/, train.txt and test.txt"
LABELS = ("normal", "benign", "malignant")


def clips(folder: Path) -> pd.DataFrame:
    """The table of videos (subset `videos`) and of images (subset `images`, clips of one frame).

    An image that no list names is left out, and so is a listed one that is missing.
    """
    rows = []
    for path, label, reason in catalogue.by_class(folder / "GBUSV", LABELS):
        patient, underscore, _ = path.name.partition("_")
        rows.append(catalogue.row(folder, path, label, patient if underscore else "", "videos", reason))
    lists = [folder / "GBCU" / "train.txt", folder / "GBCU" / "test.txt"]
    for path, label, reason in catalogue.listed(lists, folder / "GBCU" / "imgs", dict(zip("012", LABELS, strict=True))):
        rows.append(catalogue.row(folder, path, label, "", "images", reason))
    return catalogue.table(rows, folder, LAYOUT)
