"""Breast: still images of benign and malignant lesions and of normal breasts, with masks of the lesions.

Patients are unknown. One of three layouts, told apart by the folders:

    <class>/<class> (1).png                 BUSI as published; <class> is benign, malignant or normal
    <class>/<class> (1)_mask.png            of each lesion one: _mask, _mask_1, … ; of a normal breast black
    images/<class>/<class>_001.jpg          BUSI with the masks in another folder
    masks/<class>/<class>_001_0.png         likewise: _0, _1, …
    original/000001.png  GT/000001.png      UDIAT
    DatasetB.csv                            its labels, columns Image, Type: the published DatasetB.xlsx saved as csv
"""

import re
from collections import defaultdict
from pathlib import Path

import pandas as pd

from stages.lib.clips import catalogue, lists
from stages.lib.params import UserError, require

TITLE = "BUSI, and UDIAT (Dataset B): breast images with masks of the lesions"
LICENCE = "BUSI: not stated; ask the authors, and cite the paper. UDIAT: for research, on request to the authors"
CITATION = (
    "BUSI: Al-Dhabyani et al., 'Dataset of breast ultrasound images', Data in Brief 2020, doi "
    "10.1016/j.dib.2019.104863. UDIAT: Yap et al., 'Automated breast ultrasound lesions detection using "
    "convolutional neural networks', IEEE JBHI 2018"
)
LINK = "https://doi.org/10.1016/j.dib.2019.104863"
LAYOUT = "benign/, malignant/, normal/ with images and masks, or images/ and masks/, or original/ and GT/ with DatasetB.csv"
CLASSES = ("benign", "malignant", "normal")
Found = list[tuple[Path, str, str]]  # of each image: path, label, reason to leave it out or ''
Masks = dict[Path, list[Path]]  # an image's path without suffix → its masks


def clips(folder: Path) -> pd.DataFrame:
    """The table of images, each a clip of one frame, and the files of its masks in `masks`, ';' between them.

    Raises:
        UserError: no folder, no image, no labels; a mask of no image, or, where there are masks, a lesion without one.
    """
    found, masks = _udiat(folder) if (folder / "original").is_dir() else _busi(folder)
    masked, rows = bool(masks), []
    for path, label, reason in found:
        own = masks.pop(path.with_suffix(""), [])
        require(bool(own) or not masked or label not in ("benign", "malignant"), f"{path} is {label} but has no mask, as other "
                "images have: add the mask, or take the image out")
        rows.append(catalogue.row(folder, path, label, left_out=reason) | {"masks": ";".join(map(str, own))})
    alone = [str(mask) for own in masks.values() for mask in own]
    require(not alone, f"{'; '.join(alone[:1])} is the mask of no image: add the image, or take the mask out")
    return catalogue.table(rows, folder, LAYOUT)


def _busi(folder: Path) -> tuple[Found, Masks]:
    """Images and masks in folders named like the classes; side by side, or in images/ and masks/."""
    apart = (folder / "images").is_dir()
    images, drawn, name = (folder / "images", folder / "masks", r"(.+)_\d+") if apart else (folder, folder, r"(.+)_mask(_\d+)?")
    masks = defaultdict(list)
    for label in CLASSES:
        for path in catalogue.images(drawn / label):
            if image := re.fullmatch(name, path.stem):
                masks[images / label / image[1]].append(path)
    found = list(catalogue.by_class(images, CLASSES))
    return [line for line in found if apart or not re.fullmatch(name, line[0].stem)], masks


def _udiat(folder: Path) -> tuple[Found, Masks]:
    """Images in original/, their masks under the same names in GT/, their labels by the number in the name."""
    path = folder / "DatasetB.csv"
    try:
        entries = lists.read(path, ["Image", "Type"])
    except FileNotFoundError:
        raise UserError(f"{path} is missing: save DatasetB.xlsx as csv, for its labels") from None
    number = entries["Image"].str.strip().str.removesuffix(".png").str.lstrip("0")
    known = lists.by_key(path, pd.DataFrame({"Image": number, "Type": entries["Type"].str.lower()}), "Image")
    found = []
    for image in catalogue.files(folder / "original"):
        label = known.get(image.stem.lstrip("0"), {}).get("Type", "")
        reason = "" if label in CLASSES else f"label unknown: {label or 'no line'} in {path.name}"
        found.append((image, "" if reason else label, reason))
    return found, {folder / "original" / mask.stem: [mask] for mask in catalogue.images(folder / "GT")}
