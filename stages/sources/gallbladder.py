"""Gallbladder: videos (GBUSV) and still images (GBCU) of normal, benign and malignant gallbladders.

One of the two will do:

    GBUSV/normal/  benign/  malignant/      video files or folders of frames: <patient>_<…>, or without patient
    GBCU/imgs/<name>.jpg                    still images, patients unknown
    GBCU/train.txt  test.txt                lines name,label: 0 normal, 1 benign, 2 malignant
"""

from pathlib import Path

import pandas as pd

from stages.lib.clips import catalogue

TITLE = "GBUSV (videos) and GBCU (images) of normal, benign and malignant gallbladders, PGIMER Chandigarh"
LICENCE = "not stated; on request to the authors"
CITATION = (
    "GBUSV: Basu et al., 'Unsupervised contrastive learning of image representations from ultrasound videos with "
    "hard negative mining', MICCAI 2022, arXiv 2207.13148. GBCU: Basu et al., 'Surpassing the human accuracy: "
    "detecting gallbladder cancer from USG images with curriculum learning', CVPR 2022, arXiv 2204.11433"
)
LINK = "https://gbc-iitd.github.io/data"
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
