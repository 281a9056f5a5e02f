"""LUSMS: lung clips of COVID-19 patients by finding, one of the four sets of US-4.

Collected and used by Chen et al., MICCAI 2021 (arXiv 2011.13066), as COVID19-LUSMS; no public licence: to be had from
its authors. Patients are unknown:

    a_lines/  b_lines/  pleural/  other/
      <clip>.mp4          video
      <clip>/1.jpg …      folder of frames
"""

from pathlib import Path

import pandas as pd

from stages.lib import catalogue

LAYOUT = "a_lines/, b_lines/, pleural/, other/, in each video files or folders of frames"


def clips(folder: Path) -> pd.DataFrame:
    """The table of clips; the label is the folder's name."""
    found = catalogue.by_class(folder, ("a_lines", "b_lines", "pleural", "other"))
    rows = [catalogue.row(folder, path, label, left_out=reason) for path, label, reason in found]
    return catalogue.table(rows, folder, LAYOUT)
