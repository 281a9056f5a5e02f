"""Liver Fibrosis: liver clips by stage of fibrosis, one of the four sets of US-4.

Patients are unknown. Any set of livers staged F0 to F4 will do:

    F0/ … F4/
      <clip>/1.jpg …      folder of frames
      <clip>.mp4          video
      <image>.jpg         still image: a clip of one frame
"""

from pathlib import Path

import pandas as pd

from stages.lib.clips import catalogue

TITLE = "Liver Fibrosis: liver clips by stage of fibrosis, one of the four sets of US-4"
LICENCE = "not stated; ask the authors"
CITATION = (
    "Chen et al., 'USCL: pretraining deep ultrasound image diagnosis model through video contrastive representation "
    "learning', MICCAI 2021, arXiv 2011.13066"
)
LINK = "https://github.com/983632847/USCL"
LAYOUT = "F0/ … F4/, in each folders of frames, video files or images"


def clips(folder: Path) -> pd.DataFrame:
    """The table of clips; the label is the folder's name."""
    found = catalogue.by_class(folder, ("F0", "F1", "F2", "F3", "F4"))
    rows = [catalogue.row(folder, path, label, left_out=reason) for path, label, reason in found]
    return catalogue.table(rows, folder, LAYOUT)
