"""Scores of the whole run: numbers and plots for DVC, and one page for people that opens from disk.

reads   reports/predictions/<task>.csv   seed, clip, patient, fold, frame, label, p_<class> …: a line per held-out frame
        reports/predictions/<task>_segmentation.csv, _folds.csv    a line per image, per fold (stages/segment.py)
        reports/probes/<task>.csv        probe, clip, patient, fold, label, p_<class> …: a line per probe and held-out clip
        reports/finetune/<task>.csv      seed, fold, epoch, loss, held_out_correct, held_out_frames
        data/folds/<task>.csv            clip, patient, label, fold, copy_of, left_out
        reports/pretrain.csv             epoch, loss, held_out_loss, …
        reports/pairs/                   what the method made of its clips: pairs.csv, views.csv, views.npy (lib/pair_record.py)
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
from pathlib import Path

import pandas as pd

from stages.lib import checkpoint, figures, pair_sheet
from stages.lib.page import render
from stages.lib.params import require, run
from stages.lib.results import defined, evaluate, lesions, read

SECTIONS = {  # of the page, in its order: stages/page/sections/<name>.html.j2 and the title
    "run": "What was run",
    "scores": "Scores",
    "segmentation": "Segmentation of lesions",
    "confusion": "Confusion matrices",
    "roc": "ROC curves",
    "pairs": "Pairs as the method saw them",
    "pretraining": "Pretraining",
    "us4": "Clips used and left out",
    "limits": "Limits",
}


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
    epochs, facts = read("reports/pretrain.csv", pd.read_csv), checkpoint.facts()
    looks = epochs.filter(["knn_accuracy", "alignment", "uniformity"]).dropna(how="all")
    pretrained = {name: facts[name] for name in ("held_out_loss", "epoch")} | dict(looks.iloc[-1] if len(looks) else {})
    pretrained = defined(pretrained | {"seconds": round(epochs["seconds"].sum())})
    pairs = pair_sheet.section(epochs)
    absent = {name for name, there in {"segmentation": segmented, "pairs": pairs}.items() if not there}
    metrics = {result["task"]: result["metrics"] for result in results} | segmented | {"pretrain": pretrained}
    parameters = {"seed": seed, "collection": collection, "extract_frames": extract_frames}
    parameters |= {"assemble_us4": assemble_us4, "pretrain": pretrain, "methods": methods, "views": views,
                   "finetune": finetune}
    parameters |= {"segment": segment} if segmented else {}
    parameters |= {"tasks": {name: tasks[name] for name in names}}
    page = render(
        "report.html.j2",
        sections={name: title for name, title in SECTIONS.items() if name not in absent},
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
        pairs=pairs,
        audit=read("reports/us4_audit.csv").to_dict("records"),
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
