"""The published folds of POCUS as clips: `python -m stages.tools.pocus_pickles <folder> [<target>]`

reads   <folder>/covid_data1.pkl … covid_data5.pkl of USCL: (X_train, y_train, X_test, y_test), X uint8 [N, 3, H, W], y 0 COVID,
        1 pneumonia, 2 regular; arrays of numbers only, a pickle with anything else is refused (stages/tools/number_pickle.py)
writes  <target>/fold1/0000.png …, the images of the five test parts, and <target>/clips.csv, for the source `custom`
        (data/raw/custom, if no target is named)

The files know neither videos nor patients. An image's `patient` is therefore its fold, and every image is a clip of its own.
The column `fold` gives the published division, also where the leak guard finds copies in two folds and joins their patients.
"""

import argparse
from collections import Counter
from hashlib import blake2b
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from stages.lib.clips import store
from stages.lib.params import require
from stages.lib.running.stage import run_tool
from stages.tools import number_pickle

FOLDS = range(1, 6)
CLASSES = ("covid", "pneumonia", "regular")


def main(folder: Path, target: Path) -> None:
    """Write the five test parts as images with a list of them, and say whether the training parts are made of the same.

    Raises:
        UserError: the target is there, a file is missing or not as described; nothing is written then.
    """
    require(not target.exists(), f"{target} already exists; remove it, or name another folder")
    tables, tests, trained = [], {}, {}
    with store.replacing(target) as partial:
        for fold in FOLDS:
            path = folder / f"covid_data{fold}.pkl"
            (train, _), (test, labels) = parts(path)
            trained[path.name], tests[path.name] = fingerprints(train), fingerprints(test)
            tables.append(write(test, labels, fold, partial))
        clips = pd.concat(tables)
        clips.to_csv(partial / "clips.csv", index=False)
    counts = ", ".join(f"{(clips['label'] == name).sum():,} {name}" for name in CLASSES)
    print(f"{target}: {len(clips):,} images in {len(FOLDS)} folds ({counts})")
    whole = sum(tests.values(), Counter())
    other = [name for name in tests if trained[name] + tests[name] != whole]
    if other:
        print(f"{', '.join(other)}: the training part is not the other files' test parts together. The folds written here "
              "train on those test parts")


def parts(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """(images, labels) of the training and of the test part."""
    content = number_pickle.read(path)
    require(isinstance(content, list | tuple) and len(content) == 4, f"{path} must hold X_train, y_train, X_test and y_test")
    pairs = []
    for images, labels in (content[:2], content[2:]):
        images, labels = np.asarray(images), np.asarray(labels)
        fits = images.dtype == np.uint8 and images.ndim == 4 and images.shape[1] == 3 and labels.shape == images.shape[:1]
        require(fits and len(labels) > 0, f"{path}: X must be uint8 [N, 3, H, W] and y [N], of one image or more; they are "
                f"{images.dtype} {list(images.shape)} and {list(labels.shape)}")
        unknown = set(np.unique(labels).tolist()) - set(range(len(CLASSES)))
        require(not unknown, f"{path}: y must be 0, 1 or 2 ({', '.join(CLASSES)}); it holds {sorted(unknown)}")
        pairs.append((images, labels.astype(int)))
    return pairs


def fingerprints(images: np.ndarray) -> Counter:
    """How often each image is there."""
    return Counter(blake2b(np.ascontiguousarray(image)).digest() for image in images)


def write(images: np.ndarray, labels: np.ndarray, fold: int, target: Path) -> pd.DataFrame:
    """The images [N, 3, H, W], red first, as PNG files; returns their lines of clips.csv."""
    (target / f"fold{fold}").mkdir()
    names = [f"fold{fold}/{number:04d}.png" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        picture = cv2.cvtColor(np.ascontiguousarray(image.transpose(1, 2, 0)), cv2.COLOR_RGB2BGR)
        require(cv2.imwrite(str(target / name), picture), f"{target / name} cannot be written")
    return pd.DataFrame({"path": names, "patient": f"fold {fold}", "label": [CLASSES[label] for label in labels], "fold": fold})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m stages.tools.pocus_pickles", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where covid_data1.pkl … covid_data5.pkl are")
    parser.add_argument("target", type=Path, nargs="?", default=Path("data/raw/custom"), help="default: data/raw/custom")
    run_tool(main, **vars(parser.parse_args()))
