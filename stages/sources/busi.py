"""BUSI: still breast images, benign, malignant and normal, with masks of the lesions, which are no clips.

Al-Dhabyani et al., "Dataset of breast ultrasound images", Data in Brief 2020; no licence text: cite the paper. Patients
are unknown. As published, or with the masks in another folder:

    <class>/<class> (1).png  <class> (1)_mask.png
    images/<class>/<class>_001.jpg
"""

from pathlib import Path

import pandas as pd

from stages.lib import catalogue

LAYOUT = "benign/, malignant/, normal/ with the images, in images/ or directly"


def clips(folder: Path) -> pd.DataFrame:
    """The table of images, each a clip of one frame; the label is the folder's name."""
    images = folder / "images" if (folder / "images").is_dir() else folder
    rows = [
        catalogue.row(folder, path, label, left_out=reason)
        for path, label, reason in catalogue.by_class(images, ("benign", "malignant", "normal"))
        if "_mask" not in path.stem
    ]
    return catalogue.table(rows, folder, LAYOUT)
