"""Positive control: does each pretraining method learn features that beat random ones, on phantoms of known truth?

    python -m tests.benchmarks.positive_control --out /tmp/control [--methods simclr uscl] [--seeds 0 1 2] [--steps 300]

The data: simulated lung clips, each of another patient with another scanner. The class (regular, covid, pneumonia) decides
what the lung shows. Kind, depth, opening and frequency of the probe, gain, dynamic range, chest wall and position are drawn
independently of the class. The gain varies by 6 dB more than in the default phantoms, so that grey values alone tell little
of the class. 300 unlabelled clips train each method, 60 more are held out as in the pipeline, and 540 labelled patients
are for the probe only.

The measure: balanced accuracy of a logistic regression on frozen mean features of a patient's frames, in five folds by
patient. The baseline is the same network with random weights of the same seed, its batch norm calibrated on unlabelled
frames. The interval of the difference is a paired bootstrap over patients; each patient contributes all seeds.

Everything is kept in --out: the frames, and one file per method and seed, so that a second call goes on. The settings
are those of params.yaml but for SHORT, which suits runs of hundreds of steps from random weights, and for VIEWS.
"""

import argparse
import json
import os
import time
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stages import pretrain
from stages.lib.evaluation.frozen_probes import set_statistics
from stages.lib.networks import checkpoint
from stages.lib.networks.backbone import Backbone
from stages.lib.networks.initial import load
from stages.lib.networks.normalisation import RANDOM
from stages.lib.params import from_params
from stages.lib.training.views import Views
from stages.phantoms.recording import Clip, scan

ROOT = Path(__file__).parents[2]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
CLASSES = ("regular", "covid", "pneumonia")
COUNTS = {"train": 300, "held_out": 60, "labelled": 540}
FRAMES = {"train": 12, "held_out": 12, "labelled": 4}       # of each clip, at 3 a second
GAIN_DB = 6.0               # standard deviation, beside what the scanner draws
STEPS, LONGER = 150, {"ucl": 300, "byol": 300, "barlow_twins": 300}     # of pretraining; for methods that learn more slowly
BATCH = 32
BOOTSTRAPS = 5000
# Views: published crops of 8 % are made for photographs of 224 px, and without jitter (ucl) gain is no nuisance. The same views
# for all show whether the method itself learns. Its constants of normalisation stay.
VIEWS = {key: value for key, value in PARAMS["methods"]["simclr"]["views"].items() if key not in ("mean", "std")}
VIEWS |= {"crop_scale": [0.3, 1.0]}
# Rates, temperatures and key encoders that are made for a start from ImageNet weights, or for many thousands of steps, would
# stand still in hundreds. USCL learns without labels here, as the others do.
FAST = {"optimizer": {"learning_rate": 0.001}}
ADAM = {"optimizer": {"name": "adam", "learning_rate": 0.0003}}
WITH_KEYS = {"temperature": 0.1, "key_momentum": 0.99}
SHORT = {
    "simclr": FAST | {"temperature": 0.1},
    "uscl": FAST | {"temperature": 0.1, "label_weight": 0.0},
    "meta_uscl": {"temperature": 0.1, "optimizer": {"learning_rate": 0.01}},
    "ucl": ADAM | WITH_KEYS,
    "moco_v2": WITH_KEYS | {"queue_size": 128, "optimizer": {"learning_rate": 0.1}},
    "cycle_contrast": ADAM | WITH_KEYS | {"queue_size": 128},
    "byol": ADAM | {"key_momentum": 0.9},
    "simsiam": ADAM,
    "ivpp": FAST,
    "supervised": FAST,
}


def phantoms(size_px: int, seed: int, counts: dict[str, int]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Frames uint8 [clips, frames, S, S] and classes [clips] of each part."""
    frames, labels = {}, {}
    for part, clips in counts.items():
        labels[part] = np.arange(clips) % len(CLASSES)
        frames[part] = np.stack([clip_frames(part, number, size_px, seed) for number in range(clips)])
    return frames, labels


def clip_frames(part: str, number: int, size_px: int, seed: int) -> np.ndarray:
    """Frames of one clip, cut to the fan and padded to a square, uint8 [frames, S, S]."""
    rng = np.random.default_rng([seed, *part.encode(), number])
    probe = "linear" if rng.random() < 0.3 else "convex"
    scene = CLASSES[number % len(CLASSES)]
    clip = Clip("pocus", f"{part}/{number}.mp4", f"{part} {number}", scene, scene, probe)
    phantom, scanner = scan(clip, rng.uniform(), seed, rng)
    scanner.gain_db += rng.normal(0, GAIN_DB)
    rows, columns = (np.flatnonzero(scanner.fan.any(axis)) for axis in (1, 0))
    inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    made = []
    for index in range(FRAMES[part]):
        grey = np.where(scanner.fan, scanner.frame(phantom.field(index / 3))[..., 1], 0).astype(np.uint8)[inside]
        side = max(grey.shape)
        square = np.zeros((side, side), np.uint8)
        top, left = (side - grey.shape[0]) // 2, (side - grey.shape[1]) // 2
        square[top : top + grey.shape[0], left : left + grey.shape[1]] = grey
        made.append(cv2.resize(square, (size_px, size_px), interpolation=cv2.INTER_AREA))
    return np.stack(made)


def write_us4(folder: Path, frames: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> None:
    """The clips to pretrain on; the classes are for `supervised` alone."""
    parts = ("train", "held_out")
    table = pd.concat([pd.DataFrame({"split": part, "frames": frames[part].shape[1], "label": labels[part]}) for part in parts],
                      ignore_index=True)
    table["label"] = table["label"].map(dict(enumerate(CLASSES)))
    table["clip"] = [f"phantom/{number}.mp4" for number in table.index]
    table = table.assign(source="phantom", patient=table["clip"], pooled_class=table["label"], fps=3.0)
    table["first"] = table["frames"].cumsum() - table["frames"]
    rows = table.loc[table.index.repeat(table["frames"]), ["clip"]].reset_index(drop=True)
    rows["frame"] = rows.groupby("clip").cumcount()
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "clips.csv", index=False)
    rows.assign(row=rows.index, time_s=rows["frame"] / 3).to_csv(folder / "frames.csv", index=False)
    np.save(folder / "frames.npy", np.concatenate([frames[part].reshape(-1, *frames[part].shape[2:]) for part in parts]))


@torch.no_grad()
def features(backbone: Backbone, frames: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Mean feature of each clip's frames, [clips, F]."""
    flat = torch.from_numpy(frames.reshape(-1, 1, *frames.shape[2:])).float() / 255
    found = torch.cat([backbone((part - mean) / std) for part in flat.split(256)])
    return found.unflatten(0, frames.shape[:2]).mean(1).numpy()


def random_features(seed: int, frames: dict[str, np.ndarray]) -> np.ndarray:
    """Features of the labelled clips by random weights, calibrated on unlabelled frames."""
    torch.manual_seed(seed)
    backbone = Backbone("resnet18")
    with torch.no_grad():
        train = torch.from_numpy(frames["train"][:, ::4].reshape(-1, 1, *frames["train"].shape[2:]))
        set_statistics(backbone, train, from_params(Views, PARAMS["finetune"]["views"] | RANDOM._asdict(), "finetune.views"))
    return features(backbone, frames["labelled"], *RANDOM)


def pretrained_features(method: str, seed: int, steps: int, folder: Path, frames: dict[str, np.ndarray]) -> np.ndarray:
    """Pretrain by the stage itself in a folder with data/us4, then the features of the labelled clips by the kept weights."""
    block = dict(PARAMS["methods"][method])
    for key, value in (SHORT.get(method, {}) | {"views": VIEWS}).items():
        block[key] = block[key] | value if isinstance(value, dict) else value
    epochs = max(1, round(steps / -(-len(frames["train"]) // BATCH)))
    with inside(folder):
        pretrain.main(seed=seed, method=method, arch="resnet18", init="random", epochs=epochs, batch_size=BATCH,
                      steps_per_epoch=None, measure_every=epochs, methods={method: block}, views=PARAMS["views"])
        facts = checkpoint.facts()
        backbone = load(Backbone("resnet18"), checkpoint.weights(), method).eval()
        Path("reports/pretrain.csv").rename(f"{method}_{seed}_losses.csv")
    return features(backbone, frames["labelled"], facts["mean"], facts["std"])


@contextmanager
def inside(folder: Path):
    """Work in the folder, as the stage does in the project's."""
    before = Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def predicted(vectors: np.ndarray, labels: np.ndarray, folds: int = 5) -> np.ndarray:
    """Class of each patient by a logistic regression trained on the other folds, [patients]."""
    found = np.full(len(labels), -1)
    for training, held_out in StratifiedKFold(folds, shuffle=True, random_state=0).split(vectors, labels):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        found[held_out] = model.fit(vectors[training], labels[training]).predict(vectors[held_out])
    return found


def balanced(right: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean recall over classes, of the patients in the last dimension."""
    return np.mean([right[..., labels == number].mean(-1) for number in np.unique(labels)], axis=0)


def difference(ours: np.ndarray, others: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Difference of balanced accuracies with its 95 % interval: paired bootstrap over patients, within classes.

    Args:
        ours, others: whether each seed's prediction of each patient is right, [seeds, patients].
    """
    rng, gain = np.random.default_rng(0), ours.mean(0) - others.mean(0)
    by_class = [gain[labels == number] for number in np.unique(labels)]
    draws = np.mean([part[rng.integers(0, len(part), (BOOTSTRAPS, len(part)))].mean(1) for part in by_class], axis=0)
    return float(np.mean([part.mean() for part in by_class])), *np.quantile(draws, (0.025, 0.975)).tolist()


def run(
    out: Path, methods: list[str], seeds: list[int], steps: int | None, size_px: int, counts: dict[str, int] = COUNTS
) -> pd.DataFrame:
    """Compute what is not in `out` yet; the table of all methods and seeds that are. steps: of pretraining; None: as above."""
    stored = out / f"phantoms_{size_px}.npz"
    if not stored.exists():
        out.mkdir(parents=True, exist_ok=True)
        frames, labels = phantoms(size_px, 0, counts)
        np.savez(stored, **frames, **{f"labels_{part}": values for part, values in labels.items()})
    data = np.load(stored)
    frames = {part: data[part] for part in counts}
    labels = {part: data[f"labels_{part}"] for part in counts}
    if not (out / "data/us4/frames.npy").exists():
        write_us4(out / "data/us4", frames, labels)
    for seed in seeds:
        for method in ["random", *methods]:
            result = out / f"{method}_{seed}.json"
            if not result.exists():
                start, given = time.process_time(), steps or LONGER.get(method, STEPS)
                vectors = (random_features(seed, frames) if method == "random" else
                           pretrained_features(method, seed, given, out.absolute(), frames))
                right = (predicted(vectors, labels["labelled"]) == labels["labelled"]).tolist()
                facts = {"steps": given, "size_px": size_px, "cpu_seconds": round(time.process_time() - start, 1)}
                result.write_text(json.dumps(facts | {"right": right}))
    return table(out, labels["labelled"])


def table(out: Path, labels: np.ndarray) -> pd.DataFrame:
    """A line per method with results: seeds, balanced accuracy, difference to random with interval, seconds of CPU time."""
    found = {}
    for path in sorted(out.glob("*_*.json")):
        method, _, seed = path.stem.rpartition("_")
        found.setdefault(method, {})[int(seed)] = json.loads(path.read_text())
    lines = []
    for method, results in found.items():
        seeds = sorted(results)
        right = np.array([results[seed]["right"] for seed in seeds], float)
        line = {"method": method, "seeds": len(seeds), "accuracy": float(balanced(right, labels).mean())}
        if method != "random":
            random = np.array([found["random"][seed]["right"] for seed in seeds], float)
            line |= dict(zip(("difference", "low", "high"), difference(right, random, labels), strict=True))
        lines.append(line | {"cpu_seconds": np.mean([results[seed]["cpu_seconds"] for seed in seeds])})
    return pd.DataFrame(lines).sort_values("accuracy", ascending=False, ignore_index=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="*", default=sorted(PARAMS["methods"]))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help=f"of pretraining (default: {STEPS}, {LONGER})")
    parser.add_argument("--size", type=int, default=32)
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    print(run(given.out, given.methods, given.seeds, given.steps, given.size).round(3).to_string(index=False))
