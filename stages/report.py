"""Scores of the whole run: numbers and plots for DVC, and one page for people that opens from disk.

reads   reports/predictions/<task>.csv   seed, clip, patient, fold, frame, label, p_<class> …: a line per held-out frame
        reports/predictions/<task>_segmentation.csv, _folds.csv    a line per image, per fold (stages/segment.py)
        reports/probes/<task>.csv        probe, clip, patient, fold, label, p_<class> …: a line per probe and held-out clip
        reports/finetune/<task>.csv      seed, fold, epoch, loss, held_out_correct, held_out_frames
        data/folds/<task>.csv            clip, patient, label, fold, copy_of, left_out
        reports/pretrain.csv             epoch, loss, held_out_loss, …
        reports/pairs.csv                epoch, source, weight, frame_distance, … of each pair, where the method gives them
        reports/us4_audit.csv            source, outcome, reason, clips, frames, names
        models/pretrained.safetensors    the facts in its header, not the weights
writes  reports/metrics.json             {task: {metric: number}}, <task>_segmentation too; what is undefined is left out
        reports/plots/confusion.csv      task, actual, predicted: a line per seed and clip
        reports/plots/roc.csv            task, class, fpr, tpr
        reports/plots/per_class.csv      task, class, clips, precision, recall, specificity, f1, auroc
        reports/report.html              self-contained: no script, no request to a network
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from stages.lib import checkpoint, figures, masks, scores, store
from stages.lib.page import render
from stages.lib.params import UserError, require, run
from stages.lib.tasks import groups

SECTIONS = {  # of the page, in its order: stages/page/sections/<name>.html.j2 and the title
    "run": "What was run",
    "scores": "Scores",
    "segmentation": "Segmentation of lesions",
    "confusion": "Confusion matrices",
    "roc": "ROC curves",
    "pretraining": "Pretraining",
    "us4": "Clips used and left out",
    "limits": "Limits",
}
ROC_POINTS = 100  # per curve: enough for the eye, few enough for git


def main(
    seed: int,
    collection: str,
    extract_frames: dict,
    assemble_us4: dict,
    pretrain: dict,
    methods: dict,
    views: dict,
    finetune: dict,
    segment: dict,
    tasks: dict,
    bootstrap_samples: int,
    confidence: float,
) -> None:
    """Score every task of `finetune.tasks` from its predictions; write all outputs, or none where something fails."""
    names = finetune["tasks"]
    require(bool(names), "params.yaml: finetune.tasks is empty; name at least one task")
    require(bootstrap_samples > 0, f"params.yaml: report.bootstrap_samples is {bootstrap_samples}; it must be above 0")
    require(0 < confidence < 1, f"params.yaml: report.confidence is {confidence}; it must lie between 0 and 1")
    for name in names:
        require(name in tasks, f"params.yaml: finetune.tasks names {name}, which tasks does not describe")
    results = [evaluate(name, tasks[name]["classes"], bootstrap_samples, confidence, seed) for name in names]
    segmented = {f"{name}_segmentation": lesions(name, bootstrap_samples, confidence, seed) for name in segment["tasks"]}
    epochs, facts = _read("reports/pretrain.csv", pd.read_csv), checkpoint.facts()
    looks = epochs.filter(["knn_accuracy", "alignment", "uniformity"]).dropna(how="all")
    pretrained = {name: facts[name] for name in ("held_out_loss", "epoch")} | dict(looks.iloc[-1] if len(looks) else {})
    pretrained = _defined(pretrained | {"seconds": round(epochs["seconds"].sum())})
    pairs = _read("reports/pairs.csv", pd.read_csv).query("epoch == epoch.max()")
    metrics = {result["task"]: result["metrics"] for result in results} | segmented | {"pretrain": pretrained}
    parameters = {"seed": seed, "collection": collection, "extract_frames": extract_frames}
    parameters |= {"assemble_us4": assemble_us4, "pretrain": pretrain, "methods": methods, "views": views,
                   "finetune": finetune}
    parameters |= {"segment": segment} if segmented else {}
    parameters |= {"tasks": {name: tasks[name] for name in names}}
    page = render(
        "report.html.j2",
        sections={name: title for name, title in SECTIONS.items() if name != "segmentation" or segmented},
        method=pretrain["method"],
        tasks=", ".join(names),
        pretrained_start=finetune["init"] == "pretrained",
        interval=f"{100 * confidence:g}\u00a0%",
        seeds=finetune["seeds"],
        phantom=collection == "phantom",
        results=results,
        segmented=segmented,
        facts=facts,
        pretrained=pretrained,
        epochs=len(epochs),
        seconds=epochs["seconds"].sum(),
        losses=figures.losses(epochs, pretrained["epoch"]),
        measures=figures.measures(looks.assign(epoch=epochs["epoch"])) if len(looks) else "",
        pairs=figures.pair_weights(pairs) if "weight" in pairs and pairs["weight"].nunique() > 1 else "",
        audit=_read("reports/us4_audit.csv").to_dict("records"),
        parameters=pd.json_normalize(parameters).to_dict("records")[0],  # {"pretrain.epochs": …}, the names for -S
        bootstrap_samples=bootstrap_samples,
        revision=_revision(),
    )
    outputs = {"metrics.json": json.dumps(metrics, indent=2, allow_nan=False) + "\n", "report.html": page}
    for name in ("confusion", "roc", "per_class"):
        table = pd.concat([result[name].assign(task=result["task"]) for result in results]).round(4)
        outputs[f"plots/{name}.csv"] = table.to_csv(index=False, lineterminator="\n")
    _write(Path("reports"), outputs)
    for name in names:
        print("{0}: balanced accuracy {balanced_accuracy}, {1:g} % interval {balanced_accuracy_low} to "
              "{balanced_accuracy_high}".format(name, 100 * confidence, **metrics[name]))
    print("reports/report.html: open it in a browser; the same numbers are in reports/metrics.json")


def evaluate(task: str, classes: list[str], samples: int, confidence: float, seed: int) -> dict:
    """What the page and the metrics say about one task, all of it from the task's prediction file.

    Raises:
        UserError: a file is missing, or it does not hold the predictions of the clips that data/folds lists.
    """
    frames, folds = _read(f"reports/predictions/{task}.csv"), _read(f"data/folds/{task}.csv")
    _check(frames, folds, task, classes)
    clips, epochs = scores.clip_level(frames), _read(f"reports/finetune/{task}.csv", pd.read_csv)
    per_class = scores.over_seeds(scores.per_class, clips, classes).rename(columns={"count": "clips"})
    probes = scores.probes(_read(f"reports/probes/{task}.csv"), classes)
    roc = scores.roc(clips, classes, ROC_POINTS)
    return {
        "task": task,
        "classes": classes,
        "frames": len(scores.by_seed(frames)[0]),
        "metrics": _defined(scores.summary(frames, epochs, classes, samples, confidence, seed) | probes),
        "by_fold": scores.over_seeds(scores.by_fold, clips, classes).to_dict("records"),
        "per_class": per_class,
        "matrices": {"Clips": scores.confusion(clips, classes), "Frames": scores.confusion(frames, classes)},
        "confusion": pd.DataFrame({"actual": clips["label"], "predicted": scores.predicted(clips, classes)}),
        "roc": roc,
        "roc_figure": figures.roc(roc, per_class.set_index("class")["auroc"].to_dict(), task),
        "unknown_patients": clips.loc[clips["patient"] == "", "clip"].nunique(),
        "left_out": folds[folds["left_out"] != ""].to_dict("records"),
        "copies": folds[folds["copy_of"] != ""].to_dict("records"),
    }


def lesions(task: str, samples: int, confidence: float, seed: int) -> dict[str, float]:
    """The numbers of the segmentation of a task.

    Raises:
        UserError: a file is missing, or it does not hold the predictions of the images that data/folds lists.
    """
    path, again = f"reports/predictions/{task}_segmentation.csv", f"run `dvc repro -f segment@{task}`"
    images, folds = _read(path), _read(f"data/folds/{task}_segmentation.csv")
    unlike = sorted(set(folds.loc[folds["left_out"] == "", "clip"]) ^ set(images["clip"]))
    require(not unlike, f"{path} and data/folds/{task}_segmentation.csv differ in {', '.join(unlike[:1])}; {again}")
    by_fold = _read(path.replace(".csv", "_folds.csv"), pd.read_csv)
    return _defined(masks.summary(images, by_fold, samples, confidence, seed))


def _check(frames: pd.DataFrame, folds: pd.DataFrame, task: str, classes: list[str]) -> None:
    """Stop where the predictions are not those of the clips in the folds, or a patient stands in two folds."""
    path, again = f"reports/predictions/{task}.csv", f"run `dvc repro -f finetune@{task}`"
    chances = [f"p_{name}" for name in classes]
    missing = sorted({"seed", "clip", "patient", "fold", "label", *chances} - set(frames))
    require(not missing, f"{path} has no column {', '.join(missing)}; {again}")
    require(len(frames) > 0, f"{path} has no line: no clip of {task} was held out; see data/folds/{task}.csv")
    strange = sorted(set(frames["label"]) - set(classes))
    require(not strange, f"{path} has the label {', '.join(strange)}, which tasks.{task}.classes does not name")
    finite = frames[chances].apply(pd.to_numeric, errors="coerce").notna().all(axis=None)
    require(finite, f"{path} has an empty probability: training diverged; lower finetune.optimizer.learning_rate")
    unlike = sorted(set(folds.loc[folds["left_out"] == "", "clip"]) ^ set(frames["clip"]))
    require(not unlike, f"{path} and data/folds/{task}.csv differ in {', '.join(unlike[:1])}; {again}")
    in_folds = frames.groupby(groups(frames))["fold"].nunique()
    require(in_folds.max() == 1, f"{path}: patient {in_folds.idxmax()} stands in two folds; {again}")


def _read(path: str, reader: Callable = store.table):
    """What `reader` makes of the file; a missing or unreadable file becomes a sentence."""
    try:
        return reader(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `dvc repro` to make it") from None
    except ValueError as error:  # pandas: an empty or broken csv
        raise UserError(f"{path} cannot be read ({error}); remove it and run `dvc repro` to make it again") from None


def _defined(numbers: dict[str, float]) -> dict[str, float]:
    """The numbers that are defined, four digits after the point: JSON knows no NaN."""
    return {key: round(value, 4) for key, value in numbers.items() if np.isfinite(value)}


def _revision() -> str:
    """The commit that is checked out, or an empty string outside git."""
    try:
        return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def _write(folder: Path, outputs: dict[str, str]) -> None:
    """Write every file beside its place first, so that a failure leaves no half of a report."""
    with tempfile.TemporaryDirectory(dir=folder) as partial:
        for name, text in outputs.items():
            (Path(partial) / name).parent.mkdir(exist_ok=True)
            (Path(partial) / name).write_text(text, encoding="utf-8")
        (folder / "plots").mkdir(exist_ok=True)
        for name in outputs:
            os.replace(Path(partial) / name, folder / name)


if __name__ == "__main__":
    run(main, stage="report")
