"""LUSMS: lung clips of COVID-19 patients by finding, one of the four sets of US-4.

Patients are unknown:

    a_lines/  b_lines/  pleural/  other/
      <clip>.mp4          video
      <clip>/1.jpg …      folder of frames
"""

from pathlib import Path

import pandas as pd

from stages.lib.clips import catalogue

TITLE = "COVID19-LUSMS: lung clips of COVID-19 patients by finding, one of the four sets of US-4"
LICENCE = "not stated; ask the authors"
CITATION = (
    "Chen et al., 'USCL: pretraining deep ultrasound image diagnosis model through video contrastive representation "
    "learning', MICCAI 2021, arXiv 2011.13066"
)
LINK = "https://github.com/983632847/USCL"
LAYOUT = "a_lines/, b_lines/, pleural/, other/, in each video files or folders of frames"


def clips(folder: Path) -> pd.DataFrame:
    """The table of clips; the label is the folder's name."""
    found = catalogue.by_class(folder, ("a_lines", "b_lines", "pleural", "other"))
    rows = [catalogue.row(folder, path, label, left_out=reason) for path, label, reason in found]
    return catalogue.table(rows, folder, LAYOUT)
