"""CLUST: liver sequences of the Challenge on Liver Ultrasound Tracking, in the five groups that US-4 takes as labels.

Available after registration. A clip is a sequence; its images may lie in Data/, as the challenge ships them:

    Rb1/ … Rb5/
      <sequence>/[Data/]00001.png …
"""

from pathlib import Path

import pandas as pd

from stages.lib.clips import catalogue

TITLE = "CLUST: liver sequences of the Challenge on Liver Ultrasound Tracking, one of the four sets of US-4"
LICENCE = "rules of the challenge: for taking part in it only, not to be passed on; for other use ask the organisers"
CITATION = "De Luca et al., 'The 2014 liver ultrasound tracking benchmark', Physics in Medicine & Biology 2015"
LINK = "https://clust.ethz.ch"
LAYOUT = "Rb1/ … Rb5/, in each a folder of images per sequence"


def clips(folder: Path) -> pd.DataFrame:
    """The table of clips; the sequence stands for the patient."""
    rows = []
    for path, label, reason in catalogue.by_class(folder, ("Rb1", "Rb2", "Rb3", "Rb4", "Rb5")):
        sequence = path.parent if path.name == "Data" else path
        clip = sequence.relative_to(folder).as_posix()
        rows.append(catalogue.row(folder, path, label, patient=sequence.name, left_out=reason, clip=clip))
    return catalogue.table(rows, folder, LAYOUT)
