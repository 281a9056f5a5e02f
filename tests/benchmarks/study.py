"""Which pretraining pays? Methods against random and ImageNet weights, on tasks whose source no method has seen.

    python -m tests.benchmarks.study --out /tmp/study [--sets a b] [--methods simclr uscl] [--seeds 0] [--fine-tune simclr]

Run it in a folder with data/frames of the four sources (`dvc repro extract_frames` makes them). SETS says which two sources
train the backbone and which tasks of the other two ask about it. Frozen weights are judged by a logistic regression on the
mean features of a clip, as the floor `random_features`, for FRACTIONS of the labelled patients. `--fine-tune` trains all
layers on LABELS of the patients, for POCUS and BUSI. The divisions into folds are DIVISIONS: the settings here were chosen on
others. Seeds: of the initial and pretrained weights, and of the draw of labelled patients.

Everything is kept in --out, one file per result, so that a second call goes on; `study.csv` and `label_efficiency.png` are made
of all results that are there.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stages import assemble_us4, pretrain
from stages.lib.clips import store
from stages.lib.clips.tasks import read_task
from stages.lib.evaluation import intervals, scores
from stages.lib.evaluation.cross_validation import cross_validate, list_trainings, table_of
from stages.lib.evaluation.fine_tuning import Recipe
from stages.lib.evaluation.floors import C, per_clip
from stages.lib.evaluation.frozen_probes import features, set_statistics
from stages.lib.evaluation.preparation import load_frames, prepare
from stages.lib.networks.backbone import Backbone
from stages.lib.networks.initial import initialise
from stages.lib.networks.normalisation import filled_in
from stages.lib.training.resume import Resume
from stages.lib.training.views import Views
from tests.benchmarks.positive_control import PARAMS, SHORT, inside

ARCH = "shufflenet_v2_x0_5"         # eight times as many images a second as resnet18 on a CPU
SETS = {"a": (["covid_blues", "gallbladder_ba"], ["pocus", "pocus_beams", "breast"]),
        "b": (["pocus", "breast"], ["covid_blues_severity", "gallbladder_ba"])}
# The classes that `supervised` and `uscl` learn: labels of the pretraining sources, never those of a task of the set.
CLASSES = {"a": {name: [f"gallbladder_ba/{name}"] for name in ("normal", "biliary_atresia")},
           "b": {f"lung_{name}": [f"pocus/{name}"] for name in ("covid", "pneumonia", "regular")}
           | {f"breast_{name}": [f"breast/{name}"] for name in ("benign", "malignant", "normal")}}
STEPS, BATCH = 2000, 64
VIEWS = {"crop_scale": [0.3, 1.0], "crop_ratio": [0.8, 1.25], "flip_probability": 0.5, "brightness": 0.4, "contrast": 0.4,
         "jitter_probability": 1.0, "blur_probability": 0.0, "solarize_probability": 0.0}
METHODS = ("simclr", "uscl", "meta_uscl", "ucl", "ivpp", "supervised")
DIVISIONS = list(range(10, 15))
FRACTIONS = (0.05, 0.1, 0.25, 0.5, 1.0)
LABELS = 0.25
FINE_TUNING = {"epochs": 15, "min_steps": 200, "head_first": 0.0, "backbone_rate": 1.0, "trainable": "all"}
SAMPLES = 5000


def block_of(method: str) -> dict:
    """The method's block: params.yaml, the settings of short runs, and the views of this study."""
    block = dict(PARAMS["methods"][method])
    short = {key: value for key, value in SHORT.get(method, {}).items() if key != "label_weight"}
    for key, value in (short | {"views": VIEWS}).items():
        block[key] = block[key] | value if isinstance(value, dict) else value
    return block


def assemble(out: Path, name: str) -> Path:
    """data/us4 of a set; returns its folder."""
    folder, (sources, tasks) = out / name, SETS[name]
    if not (folder / "data/us4/frames.npy").exists():
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "data/frames").symlink_to(Path("data/frames").absolute())
        with inside(folder):
            assemble_us4.main(seed=0, copy_distance=PARAMS["copy_distance"], sources=sources, held_out_fraction=0.2,
                              classes=CLASSES[name], extract_frames={"sources": [*SETS["a"][0], *SETS["b"][0]]},
                              finetune={"tasks": [task for task in tasks if task in PARAMS["tasks"]]}, segment={"tasks": []},
                              tasks=PARAMS["tasks"])
    return folder / "data/us4"


def pretrained(out: Path, name: str, method: str, seed: int, steps: int) -> Path:
    """The weights of a method on a set, made by the stage itself where they are not there yet."""
    folder, us4 = out / name / f"{method}_{steps}_{seed}", assemble(out, name).absolute()
    weights = folder / "models/pretrained.safetensors"
    if not weights.exists():
        (folder / "data").mkdir(parents=True, exist_ok=True)
        if not (folder / "data/us4").exists():
            (folder / "data/us4").symlink_to(us4)
        with inside(folder):
            pretrain.main(seed=seed, method=method, arch=ARCH, init="random", epochs=20, batch_size=BATCH,
                          steps_per_epoch=steps // 20, measure_every=20, methods={method: block_of(method)}, views=PARAMS["views"])
    return weights


def task_frames(name: str, beams: Path | None) -> tuple:
    """Task, its clips in folds, and its frames."""
    with inside(beams if name.endswith("_beams") else Path()):
        task = read_task(name.removesuffix("_beams"), PARAMS["tasks"])
        clips = prepare("finetune", task, PARAMS["copy_distance"], PARAMS["finetune"]["folds"], DIVISIONS)
        return task, clips, load_frames(task, clips.used)


def views_of(init: str, arch: str) -> Views:
    """Views of fine-tuning, normalised as the initial weights were trained."""
    return Views(**filled_in(PARAMS["finetune"]["views"], init, Backbone(arch)))


def probe(data: tuple, arch: str, init: str, seed: int, calibrate: bool) -> pd.DataFrame:
    """Predictions of the held-out clips by a logistic regression on frozen features, for each fraction of the labels.

    Args:
        data: from `task_frames`.
        calibrate: set the statistics of batch norm from all frames, without labels; for random weights.
    """
    task, clips, frames = data
    torch.manual_seed(seed)
    backbone, views = initialise(Backbone(arch), init), views_of(init, arch)
    if calibrate:
        set_statistics(backbone, frames.grey, views)
    values = per_clip(features(backbone, frames.grey, views), frames)
    used = clips.used.set_index("clip").loc[frames.table["clip"].unique()].reset_index()
    found = []
    for fraction in FRACTIONS:
        for training in list_trainings(clips, [seed], fraction, 0.0):
            trains, held_out = (used["clip"].isin(training.parts[part]).to_numpy() for part in ("training", "held_out"))
            model = make_pipeline(StandardScaler(), LogisticRegression(C=C, class_weight="balanced", max_iter=1000))
            model.fit(values[trains], used["label"][trains])
            probabilities = pd.DataFrame(model.predict_proba(values[held_out]), used.index[held_out], model.classes_)
            rows = used.loc[held_out, ["clip", "patient", "group", "label"]].join(probabilities[task.classes].add_prefix("p_"))
            found.append(rows.assign(fraction=fraction, division=training.division, seed=seed, fold=training.fold))
    return pd.concat(found, ignore_index=True).round(6)


def fine_tune(data: tuple, init: str, seed: int, division: int, folder: Path) -> pd.DataFrame:
    """Predictions of the held-out clips of a division by networks fine-tuned on LABELS of the patients."""
    task, clips, frames = data
    settings = PARAMS["finetune"] | FINE_TUNING
    recipe = Recipe(ARCH, init, settings["trainable"], task.classes, settings["epochs"], settings["min_steps"],
                    settings["head_first"], settings["backbone_rate"], 1000, settings["batch_size"], settings["optimizer"],
                    views_of(init, ARCH), settings["frozen_statistics"])
    trainings = [each for each in list_trainings(clips, [seed], LABELS, 0.0) if each.division == str(division)]
    resume = Resume(folder / f"{task.name}.resume", {"recipe": str(recipe), "seed": seed, "division": division}, [])
    predicted, _, _ = cross_validate(recipe, frames, trainings, None, resume, f"{task.name} {division}")
    resume.remove()
    return scores.clip_level(table_of(frames, trainings, predicted, task.classes)).assign(fraction=LABELS)


def kept(path: Path, make) -> None:
    """Write the table that `make` returns, unless it is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_csv(path, make())
        print(path, flush=True)


def run(out: Path, sets: list[str], methods: list[str], seeds: list[int], given: argparse.Namespace) -> None:
    """Make what is missing in `out`."""
    for name in sets:
        for method in methods:
            for seed in seeds:
                pretrained(out, name, method, seed, given.steps)
        for task in SETS[name][1]:
            if task.endswith("_beams") and not given.beams or given.tasks and task not in given.tasks:
                continue
            data = task_frames(task, given.beams)
            for seed in seeds:
                rows = {"random": (ARCH, "random", True), "random_uncalibrated": (ARCH, "random", False),
                        "resnet18_random": ("resnet18", "random", True),
                        "resnet18_random_uncalibrated": ("resnet18", "random", False)}
                if given.imagenet:
                    rows |= {"imagenet": ("mobilenet_v2", str(given.imagenet), False), "mobilenet_v2_random": ("mobilenet_v2", "random", True)}
                weights = {method: str(pretrained(out, name, method, seed, given.steps)) for method in methods}
                for row, (arch, init, calibrate) in (rows | {method: (ARCH, init, False) for method, init in weights.items()}).items():
                    row = row if given.steps == STEPS or row not in weights else f"{row}_{given.steps}"
                    kept(out / "probes" / task / f"{row}_{seed}.csv", lambda a=arch, i=init, c=calibrate: probe(data, a, i, seed, c))
                for row in given.fine_tune if task in ("pocus", "breast") else []:
                    for division in DIVISIONS:
                        kept(out / "finetuned" / task / f"{row}_{division}_{seed}.csv", lambda r=row, d=division: fine_tune(
                            data, weights.get(r, "random"), seed, d, out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.study", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--tasks", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--fine-tune", nargs="*", default=[], help="rows to fine-tune: random and methods")
    parser.add_argument("--imagenet", type=Path, help="file of MobileNetV2's weights")
    parser.add_argument("--beams", type=Path, help="folder whose data/frames/pocus was extracted as beams")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    run(given.out.absolute(), given.sets, given.methods, given.seeds, given)
