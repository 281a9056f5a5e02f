"""Butterfly: lung clips of the Butterfly Network's public COVID-19 gallery, one of the four sets of US-4.

In folders of any depth; the beginning of the name is the label, patients are unknown:

    Cov<…>.mp4          video → Cov
    Reg<…>/             folder of frames, 1.jpg 2.jpg … → Reg
"""

from pathlib import Path

import pandas as pd

from stages.lib.clips import catalogue

TITLE = "Butterfly: lung clips of the Butterfly Network's public COVID-19 gallery, one of the four sets of US-4"
LICENCE = "not stated; ask Butterfly Network before you share them"
CITATION = (
    "Butterfly Network, COVID-19 ultrasound gallery, 2020, as used by Chen et al., 'USCL: pretraining deep "
    "ultrasound image diagnosis model through video contrastive representation learning', MICCAI 2021, arXiv "
    "2011.13066"
)
LINK = "https://www.butterflynetwork.com/covid19/covid-19-ultrasound-gallery"
LAYOUT = "video files or folders of frames whose names begin with Cov or Reg"


def clips(folder: Path) -> pd.DataFrame:
    """The table of clips; one whose name tells no label is left out."""
    rows = []
    for path in catalogue.recordings(folder):
        known = path.name.startswith(("Cov", "Reg"))
        reason = "" if known else "label unknown: the name begins with neither Cov nor Reg"
        rows.append(catalogue.row(folder, path, path.name[:3] if known else "", left_out=reason))
    return catalogue.table(rows, folder, LAYOUT)
