"""Simulate phantom clips with known truth, in the folder layouts of the data sets that they stand for.

reads   nothing
writes  data/phantom/<source>/   video files and folders of images (layouts: stages/sources/<source>.py)
        data/phantom/truth.csv   a line per clip: source, path, patient, label, scene, transducer, severity (0-1), fps,
                                 frames, duplicate_of (source/path), and the signs drawn (empty if they do not apply)

Every clip and every patient has its own random numbers, so the frames do not depend on the number of processes. Two
Butterfly clips are copies of POCUS clips, as nearly a quarter of the real POCUS videos come from Butterfly.
"""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages.lib.clips import workers
from stages.lib.clips.store import replacing
from stages.lib.params import Count, Positive, Seed, require
from stages.lib.running.stage import run
from stages.phantoms import breast, gallbladder, liver
from stages.phantoms.recording import Clip, record

OUT = Path("data/phantom")
SOURCES = ("butterfly", "clust", "gallbladder", "liver_fibrosis", "lusms")
SUFFIXES = ("mp4", "mov", "avi", "mp4", "gif", "MP4", "avi", "MOV")
PREFIXES = {"covid": "Cov", "pneumonia": "Pneu", "regular": "Reg", "viral": "Vir"}
COPIED = ("covid", "regular")  # classes that Butterfly and POCUS share
CLIPS_OF_A_PATIENT = (1, 3, 1, 1, 2, 1, 4, 1, 1, 1, 2, 1)


def main(
    seed: Seed,
    patients_per_class: Count,
    clips_per_class: dict[str, Count],
    images_per_class: Count,
    seconds: Positive,
    max_frames: Count,
) -> None:
    """Make all clips on all cores in a new folder, which replaces data/phantom at the end.

    Args:
        seed: of all random numbers.
        patients_per_class: POCUS patients of each class; a patient has one to four clips.
        clips_per_class: source → clips of each class (for gallbladder: videos).
        images_per_class: gallbladder and breast images of each class.
        seconds: mean length of a clip.
        max_frames: a longer clip is cut to this number of frames.

    Raises:
        UserError: clips_per_class does not have exactly the keys of SOURCES.
    """
    wanted = ", ".join(SOURCES)
    require(sorted(clips_per_class) == list(SOURCES), f"params.yaml: simulate.clips_per_class must have the keys {wanted}")
    plan = pocus(patients_per_class) + us4(clips_per_class)
    plan += gallbladders(clips_per_class["gallbladder"], images_per_class) + breasts(images_per_class)
    with replacing(OUT) as folder:
        jobs = {clip: (clip, folder, seed, seconds, max_frames) for clip in plan}
        done = tqdm(workers.each(record, jobs, workers.workers()), "simulate", len(plan), unit="clip", disable=None)
        lines = dict(done)
        for result in lines.values():
            if isinstance(result, BaseException):
                raise result
        truth = [lines[clip] for clip in plan]
        truth = pd.DataFrame(truth + copies(truth, folder))
        truth.to_csv(folder / "truth.csv", index=False)
        catalogues(truth, folder)


def pocus(patients_per_class: int) -> list[Clip]:
    """POCUS: most patients have one clip, some several. Three viral clips and one linear clip of each class are added."""
    classes = ("covid", "pneumonia", "regular")
    people = [
        (label, 1 + 3 * index + offset, CLIPS_OF_A_PATIENT[index % len(CLIPS_OF_A_PATIENT)], "convex")
        for index in range(patients_per_class)
        for offset, label in enumerate(classes)
    ]
    people += [("viral", 901 + extra, 1, "convex") for extra in range(3)]
    people += [(label, 911 + extra, 1, "linear") for extra, label in enumerate(classes)]
    clips = []
    for label, patient, count, transducer in people:
        for number in range(1, 1 + count):
            path = f"videos/{transducer}/{PREFIXES[label]}_phantom{patient:02}_clip{number}.{suffix(patient + number)}"
            clips.append(Clip("pocus", path, f"Phantom {patient}", label, label, transducer))
    return clips


def us4(clips_per_class: dict[str, int]) -> list[Clip]:
    """The four sources of US-4. `copies` makes the last Butterfly clip of each class."""
    def counted(source: str, classes: tuple[str, ...]) -> list[tuple[str, int]]:
        return [(label, number) for label in classes for number in range(1, 1 + clips_per_class[source])]

    clips = []
    for label, n in counted("butterfly", COPIED):
        prefix = PREFIXES[label]
        if n < clips_per_class["butterfly"]:
            clips.append(Clip("butterfly", f"{prefix}-Gallery-Lung {n}.{suffix(n)}", "", prefix, label))
    for scene, n in counted("clust", liver.SCENES):
        name = f"{scene}-{n:02}"
        clips.append(Clip("clust", f"{scene}/{name}{'/Data' * (n % 2)}", name, scene, scene))
    for stage, n in counted("liver_fibrosis", ("F0", "F1", "F2", "F3", "F4")):
        clips.append(Clip("liver_fibrosis", f"{stage}/liver_{n:02}", "", stage, stage))
    for sign, n in counted("lusms", ("a_lines", "b_lines", "pleural", "other")):
        name = f"clip_{n:03}.{suffix(n)}" if n % 4 else f"clip_{n:03}"        # now and then a folder of images
        clips.append(Clip("lusms", f"{sign}/{name}", "", sign, sign))
    return clips


def gallbladders(videos_per_class: int, images_per_class: int) -> list[Clip]:
    """Videos, the first two of a class of one patient, and still images of different patients, class by class in turn."""
    clips = []
    for label in gallbladder.SIGNS:
        for n in range(1, 1 + videos_per_class):
            patient = f"{label[0]}{max(n, 2):02}"
            clips.append(Clip("gallbladder", f"GBUSV/{label}/{patient}_{n}.mp4", patient, label, label))
    stills = enumerate(list(gallbladder.SIGNS) * images_per_class, 1)
    return clips + [Clip("gallbladder", f"GBCU/imgs/im{n:05}.jpg", "", label, label) for n, label in stills]


def breasts(images_per_class: int) -> list[Clip]:
    """Still images of different patients, class by class in turn; the masks of the lesions lie beside them."""
    return [
        Clip("breast", f"{label}/{label} ({n}).png", "", label, label, "linear")
        for n in range(1, 1 + images_per_class)
        for label in breast.SIGNS
    ]


def suffix(number: int) -> str:
    """The suffix of a video: the containers in turn, as the real sets mix them."""
    return SUFFIXES[number % len(SUFFIXES)]


def copies(truth: list[dict], folder: Path) -> list[dict]:
    """Copy the first POCUS clip of each COPIED class to Butterfly; return the lines of truth of the copies."""
    lines = []
    for label in COPIED:
        original = next(line for line in truth if line["source"] == "pocus" and line["label"] == label)
        name, prefix = original["path"], PREFIXES[label]
        copy = folder / "butterfly" / f"{prefix}-Gallery-Copy{Path(name).suffix}"
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / "pocus" / name, copy)
        facts = {"source": "butterfly", "path": copy.name, "patient": "", "label": prefix}
        lines.append(original | facts | {"duplicate_of": f"pocus/{name}"})
    return lines


def catalogues(truth: pd.DataFrame, folder: Path) -> None:
    """Write the tables that the real sets have beside their clips: metadata.csv of POCUS, train.txt and test.txt of GBCU."""
    clips = truth[truth["source"] == "pocus"]
    columns = {"label": "Label", "transducer": "Probe", "fps": "Framerate", "frames": "Length (frames)"}
    table = clips.rename(columns=columns | {"patient": "Patient ID / Name"})[[*columns.values(), "Patient ID / Name"]]
    table.insert(0, "Filename", clips["path"].map(lambda path: Path(path).stem))
    table.to_csv(folder / "pocus/metadata.csv", index=False)

    classes = list(gallbladder.SIGNS)
    images = truth[truth["path"].str.startswith("GBCU/")]
    lines = images["path"].str.rpartition("/")[2] + "," + images["label"].map(classes.index).astype(str) + "\n"
    tested = np.arange(len(lines)) // len(classes) % 5 == 0                   # a fifth, of all classes
    (folder / "gallbladder/GBCU/test.txt").write_text("".join(lines[tested]))
    (folder / "gallbladder/GBCU/train.txt").write_text("".join(lines[~tested]))


if __name__ == "__main__":
    run(main, stage="simulate", lower="SONOPAIR_WORKERS (processes)", pipeline="data/dvc.yaml")
