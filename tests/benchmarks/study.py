"""Which pretraining pays? Methods against random and ImageNet weights, on tasks whose source no method has seen.

    python -m tests.benchmarks.study --out /tmp/study [--sets a b] [--methods simclr uscl] [--seeds 0] [--fine-tune simclr]

Run it in a folder with data/frames of the four sources (`dvc repro extract_frames` makes them). SETS says which sources train
the backbone, and on which tasks of the others it is tested. `ucl` needs clips of several frames: the set `videos`, whose rows
end in _videos. <method>_continued goes on from the ImageNet weights of MobileNetV2 with the settings of params.yaml, and is
compared with these weights.

Frozen weights are judged by a logistic regression on the mean features of a clip, as the floor `random_features`, for
FRACTIONS of the labelled patients. `--fine-tune` trains all layers, for FINE_TUNED tasks, on `--labels` of the patients. The
divisions into folds are DIVISIONS: the settings here were chosen on others. Seeds: of the initial and pretrained weights, and
of the draw of labelled patients.

Everything is kept in --out, one file per result, so that a second call goes on: take another folder after changing a setting.
`study.csv` and `label_efficiency.png` are made of all results that are there.
"""

import argparse
import math
import os
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stages import assemble_us4, pretrain
from stages.lib.clips import store
from stages.lib.clips.tasks import read_task
from stages.lib.evaluation import intervals, scores
from stages.lib.evaluation.comparison import class_names
from stages.lib.evaluation.cross_validation import cross_validate, list_trainings, table_of
from stages.lib.evaluation.fine_tuning import Recipe
from stages.lib.evaluation.floors import C, per_clip
from stages.lib.evaluation.frozen_probes import features, set_statistics
from stages.lib.evaluation.preparation import load_frames, prepare
from stages.lib.networks.backbone import ARCHS, Backbone
from stages.lib.networks.initial import initialise, named_file
from stages.lib.networks.normalisation import filled_in, normalisation
from stages.lib.training.resume import Resume
from stages.lib.training.views import Views
from tests.benchmarks.positive_control import PARAMS, SHORT, inside

ARCH = "shufflenet_v2_x0_5"         # eight times as many images a second as resnet18 on a CPU
VIDEOS = "videos"
SETS = {"a": (["covid_blues", "gallbladder_ba"], ["pocus", "pocus_beams", "breast"]),
        "b": (["pocus", "breast"], ["covid_blues_severity", "gallbladder_ba"]),
        VIDEOS: (["covid_blues"], ["pocus", "pocus_beams", "breast", "gallbladder_ba"])}
# The classes that `supervised` and `uscl` learn: labels of the pretraining sources, never those of a task of the set.
CLASSES = {"a": {name: [f"gallbladder_ba/{name}"] for name in ("normal", "biliary_atresia")},
           "b": {f"lung_{name}": [f"pocus/{name}"] for name in ("covid", "pneumonia", "regular")}
           | {f"breast_{name}": [f"breast/{name}"] for name in ("benign", "malignant", "normal")},
           VIDEOS: {}}
STEPS, BATCH, EPOCHS = 2000, 64, 20
VIEWS = {"crop_scale": [0.3, 1.0], "crop_ratio": [0.8, 1.25], "flip_probability": 0.5, "brightness": 0.4, "contrast": 0.4,
         "jitter_probability": 1.0, "blur_probability": 0.0, "solarize_probability": 0.0}
METHODS = ("simclr", "uscl", "meta_uscl", "ivpp", "supervised")     # `ucl` needs the set of videos
DEFAULT, CONTINUED = "_default", "_continued"
IMAGENET = "mobilenet_v2"
DIVISIONS = list(range(10, 15))
FRACTIONS = (0.05, 0.1, 0.25, 0.5, 1.0)
LABELS = 0.25
FINE_TUNING = {"epochs": 15, "min_steps": 200, "head_first": 0.0, "backbone_rate": 1.0, "trainable": "all"}
UNTRAINED = ("random", "imagenet")      # rows that no method of the study has trained
FINE_TUNED = ("pocus", "breast", "gallbladder_ba")
SAMPLES = 5000


def plain(method: str) -> str:
    """Its name in params.yaml."""
    return method.removesuffix(DEFAULT).removesuffix(CONTINUED)


def network_of(method: str, arch: str) -> str:
    """Of a row: `arch`, but for ImageNet weights and methods that go on from them."""
    return IMAGENET if CONTINUED in method or method == "imagenet" else arch


def block_of(method: str) -> dict:
    """The method's block of params.yaml with this study's settings; of _default and _continued without them."""
    if method.endswith(DEFAULT):
        return PARAMS["methods"][plain(method)]
    if method.endswith(CONTINUED):
        block = PARAMS["methods"][plain(method)]
        constants = normalisation("imagenet", Backbone(IMAGENET))._asdict()
        return block | {"views": block["views"] | constants}
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


def pretrained(given: argparse.Namespace, name: str, method: str, seed: int) -> Path:
    """The weights of a method on a set, made by the stage itself where they are not there yet."""
    out = given.out
    folder, us4 = out / name / f"{method}_{seed}", assemble(out, name).absolute()
    weights = folder / "models/pretrained.safetensors"
    if not weights.exists():
        (folder / "data").mkdir(parents=True, exist_ok=True)
        if not (folder / "data/us4").exists():
            (folder / "data/us4").symlink_to(us4)
        with inside(folder):
            init = str(given.imagenet) if method.endswith(CONTINUED) else "random"
            pretrain.main(seed=seed, method=plain(method), arch=network_of(method, given.arch), init=init, epochs=EPOCHS,
                          batch_size=BATCH, steps_per_epoch=given.steps // EPOCHS, measure_every=EPOCHS,
                          methods={plain(method): block_of(method)}, views=PARAMS["views"])
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
    backbone, views = initialise(Backbone(arch), init).to(frames.grey.device), views_of(init, arch)
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


def fine_tune(data: tuple, arch: str, init: str, seed: int, division: int, fraction: float, resume: Path) -> pd.DataFrame:
    """Predictions of the held-out clips of a division by networks fine-tuned on a fraction of the patients."""
    task, clips, frames = data
    settings = PARAMS["finetune"] | FINE_TUNING
    recipe = Recipe(arch, init, settings["trainable"], task.classes, settings["epochs"], settings["min_steps"],
                    settings["head_first"], settings["backbone_rate"], 1000, settings["batch_size"], settings["optimizer"],
                    views_of(init, arch), settings["frozen_statistics"])
    trainings = [each for each in list_trainings(clips, [seed], fraction, 0.0) if each.division == str(division)]
    facts = settings | {"arch": arch, "init": init, "seed": seed, "division": division, "fraction": fraction}
    resume = Resume(resume, facts, named_file(init))
    predicted, _, _ = cross_validate(recipe, frames, trainings, None, resume, f"{task.name} {division}")
    resume.remove()
    return scores.clip_level(table_of(frames, trainings, predicted, task.classes)).assign(fraction=fraction)


def kept(path: Path, make: Callable[[], pd.DataFrame]) -> None:
    """Write the table that `make` returns, unless it is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_csv(path, make())
        print(path, flush=True)


def frozen_rows(weights: dict[str, Path], imagenet: Path | None, network: str) -> dict[str, tuple[str, str, bool]]:
    """Rows of frozen features: name → architecture, initial weights, whether the statistics are set."""
    rows = {f"random{end} {arch}": (arch, "random", not end)
            for arch in dict.fromkeys((network, "resnet18", IMAGENET)) for end in ("", "_uncalibrated")}
    if imagenet:
        rows |= {f"imagenet {IMAGENET}": (IMAGENET, str(imagenet), False)}
    for method, path in weights.items():
        arch = network_of(method, network)
        rows[f"{method} {arch}"] = (arch, str(path), False)
    return rows


def run(given: argparse.Namespace) -> None:
    """Make what is missing in `given.out`."""
    for name, seed in product(given.sets, given.seeds):
        end = f"_{VIDEOS}" if name == VIDEOS else ""
        weights = {method + end: pretrained(given, name, method, seed) for method in given.methods}
        tasks = [task for task in SETS[name][1] if given.beams or not task.endswith("_beams")]
        for task in given.tasks if given.tasks is not None else tasks:
            data = task_frames(task, given.beams)
            for row, (arch, init, calibrate) in frozen_rows(weights, given.imagenet, given.arch).items():
                kept(given.out / "frozen" / task / f"{row} {seed}.csv", partial(probe, data, arch, init, seed, calibrate))
            initial = {"random": "random", "imagenet": str(given.imagenet)} | {row: str(path) for row, path in weights.items()}
            rows = [row if row in UNTRAINED else row + end for row in given.fine_tune]
            for row, division, part in product(rows, DIVISIONS if task in FINE_TUNED else [], given.labels):
                arch = network_of(row, given.arch)
                path = given.out / "finetuned" / task / f"{row} {arch} {part} {division} {seed}.csv"
                resume = path.with_name(f"{path.stem}.resume")
                kept(path, partial(fine_tune, data, arch, initial[row], seed, division, part, resume))


def results(folder: Path) -> dict[str, pd.DataFrame]:
    """The predictions of each row of a folder, of all its divisions and seeds."""
    found = {}
    for path in sorted(folder.glob("*.csv")):
        row = " ".join(path.stem.split(" ")[:2])
        found.setdefault(row, []).append(pd.read_csv(path, dtype={"clip": str, "patient": str, "group": str, "label": str}))
    return {row: pd.concat(parts, ignore_index=True) for row, parts in found.items()}


def table(out: Path) -> pd.DataFrame:
    """A line per kind of evaluation, task, fraction of the labels and row.

    The difference is that to random weights of the same architecture, with or without set statistics, whichever is better at
    this fraction; of a method that goes on from ImageNet weights, that to these. It is taken in the runs (division and seed)
    that both have. Its interval is corrected (Bonferroni) for the number of rows with other weights than random ones.
    detectable: with 80 % power, so corrected.
    """
    lines = []
    for folder in sorted(out.glob("f*/*")):
        tables = results(folder)
        found = {(row, fraction): part for row in tables for fraction, part in tables[row].groupby("fraction")}
        rows = {row for row in tables if not row.startswith("random")}
        for (row, fraction), part in found.items():
            values = accuracies(part)
            line = {"evaluation": folder.parent.name, "task": folder.name, "fraction": fraction, "row": row,
                    "accuracy": values.mean(), "sd": pd.Series(values).std(), "runs": len(values)}
            runs, (method, arch) = part[["division", "seed"]].drop_duplicates(), row.split(" ")
            names = ["imagenet"] if CONTINUED in method else ["random", "random_uncalibrated"]
            others = [found[key].merge(runs) for key in ((f"{name} {arch}", fraction) for name in names) if key in found]
            if row in rows and others:
                line |= against(max(others, key=lambda other: accuracies(other).mean()), part, 1 - 0.05 / len(rows))
            lines.append(line)
    return pd.DataFrame(lines).sort_values(["evaluation", "task", "row", "fraction"], ignore_index=True)


def accuracies(part: pd.DataFrame) -> np.ndarray:
    """Balanced accuracy of each run."""
    return scores.balanced_accuracies(part, class_names(part))


def against(baseline: pd.DataFrame, part: pd.DataFrame, confidence: float) -> dict[str, float]:
    """The difference to the baseline with its interval, paired over patients."""
    counts = [scores.outcome_counts(each, class_names(part)) for each in (baseline, part)]
    low, high = intervals.paired_interval(*counts, SAMPLES, confidence, 0)
    return {"difference": accuracies(part).mean() - accuracies(baseline).mean(), "low": low, "high": high,
            "detectable": intervals.detectable_difference(*counts, SAMPLES, confidence, 0)}


def markdown(lines: pd.DataFrame, evaluation: str, fraction: float) -> str:
    """The rows against the tasks: balanced accuracy, difference to random weights (corrected interval)."""
    lines = lines[(lines["evaluation"] == evaluation) & (lines["fraction"] == fraction)]
    cells = lines["accuracy"].map("{:.3f}".format) + lines["sd"].map(" ± {:.3f}".format).mask(lines["sd"].isna(), "")
    gains = [f"; {line.difference:+.3f} ({line.low:+.3f} to {line.high:+.3f}){' *' if line.low > 0 else ''}"
             if math.isfinite(line.low) else "" for line in lines.itertuples()]
    wide = lines.assign(cell=cells + gains).pivot(index="row", columns="task", values="cell").fillna("")
    rows = [["row", *wide.columns], ["---"] * (1 + wide.shape[1]), *wide.reset_index().to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def picture(lines: pd.DataFrame, path: Path) -> None:
    """Balanced accuracy of frozen features against the share of labelled patients, a panel per task; random rows in grey."""
    lines = lines[lines["evaluation"] == "frozen"]
    tasks, rows = list(lines["task"].unique()), sorted(lines["row"].unique(), key=lambda row: row.startswith("random"))
    grey = [row for row in rows if row.startswith("random")]
    colours = {row: colormaps["tab10"](number) for number, row in enumerate(rows)}
    colours |= {row: colormaps["Greys"](0.3 + 0.7 * number / max(1, len(grey))) for number, row in enumerate(grey)}
    figure = Figure(figsize=(10, 3.6 * -(-(len(tasks) + 1) // 3)), layout="constrained")
    panels = figure.subplots(-(-(len(tasks) + 1) // 3), 3, squeeze=False).flatten()
    for axes, task in zip(panels, tasks, strict=False):
        for row in rows:
            part = lines[(lines["task"] == task) & (lines["row"] == row)]
            axes.errorbar(100 * part["fraction"], part["accuracy"], part["sd"], label=row.replace("_", " "), color=colours[row],
                          linestyle="--" if row in grey else "-", linewidth=1 if row in grey else 1.6, elinewidth=0.5)
        axes.set(title=task, xlabel="labelled patients, %", ylabel="balanced accuracy", xscale="log",
                 xticks=[5, 10, 25, 50, 100])
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
    for axes in panels[len(tasks):]:
        axes.set_axis_off()
    panels[len(tasks)].legend(*panels[0].get_legend_handles_labels(), loc="center", frameon=False)
    figure.savefig(path, dpi=100)


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.study", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=lambda text: Path(text).absolute(), required=True)
    parser.add_argument("--sets", nargs="*", default=["a", "b"], choices=list(SETS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--tasks", nargs="*", help="of the set; all, if not given")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--fine-tune", nargs="*", default=[], help="rows to fine-tune, too: random, imagenet, methods")
    parser.add_argument("--labels", nargs="*", type=float, default=[LABELS], help="parts of the patients to fine-tune on")
    parser.add_argument("--arch", default=ARCH, choices=ARCHS, metavar="NETWORK", help="of torchvision")
    parser.add_argument("--steps", type=int, default=STEPS, help="of pretraining")
    parser.add_argument("--imagenet", type=Path, help="file of MobileNetV2's weights")
    parser.add_argument("--beams", type=Path, help="folder whose data/frames/pocus was extracted as beams")
    given = parser.parse_args(words)
    unknown = set(given.fine_tune) - {*UNTRAINED, *given.methods}
    if unknown:
        parser.error(f"--fine-tune names {', '.join(sorted(unknown))}; choose from random, imagenet and --methods")
    if not given.imagenet and any(network_of(row, "") for row in (*given.methods, *given.fine_tune)):
        parser.error("ImageNet weights, and the methods that go on from them, need --imagenet")
    return given


if __name__ == "__main__":
    given = arguments()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    run(given)
    lines = table(given.out)
    if len(lines):
        store.write_csv(given.out / "study.csv", lines.round(4))
        picture(lines, given.out / "label_efficiency.png")
        for evaluation, fraction in product(("frozen", "finetuned"), (LABELS, 1.0)):
            if ((lines["evaluation"] == evaluation) & (lines["fraction"] == fraction)).any():
                print(f"\n{evaluation}, {fraction:.0%} of the labelled patients\n\n{markdown(lines, evaluation, fraction)}")
