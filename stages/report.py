"""Scores of the whole run: numbers and plots for DVC, and one page for people that opens from disk.

reads   reports/predictions/<task>.csv   seed, clip, patient, fold, frame, label, p_<class> …: a line per held-out frame
        reports/predictions/<task>_segmentation.csv, _folds.csv    a line per image, per fold (stages/segment.py)
        reports/probes/<task>.csv        probe, clip, patient, fold, label, p_<class> …: a line per probe and held-out clip
        reports/features/<task>/         features of clips before fine-tuning; pretrain/: of the clips held out from pretraining
        reports/grad_cam/<task>/         maps.npy, maps.csv: where the networks looked (stages/finetune.py)
        data/frames/<task>/              the frames that are pictured, and no others
        reports/finetune/<task>.csv      seed, fold, epoch, loss, held_out_correct, held_out_frames
        data/folds/<task>.csv            clip, patient, label, fold, copy_of, left_out
        reports/pretrain.csv             epoch, loss, held_out_loss, …
        reports/pairs/                   pairs.csv, views.csv, views.npy (pretraining/pairs.py)
        reports/us4_audit.csv            source, outcome, reason, clip, copy_of, distance, clips, frames, patients, labels
        models/pretrained.safetensors    the facts in its header, not the weights
        reports/predictions/<task>.csv of every run in report.baselines, from git and DVC's cache
writes  reports/scores.json              {task: {score: number}}, <task>_segmentation too; what is undefined is left out
        reports/metrics.json             the few of them that `dvc metrics diff` and `dvc exp show` are for
        reports/plots/confusion.csv      task, actual, predicted: a line per seed and clip
        reports/plots/roc.csv            task, class, fpr, tpr
        reports/plots/per_class.csv      task, class, clips, precision, recall, specificity, f1, auroc
        reports/data_card.md             what the pretraining set is made of
        models/README.md                 the card of the networks in models/
        reports/report.html              self-contained: no request to a network; complete without script
"""

import json
import os
import tempfile
from importlib import import_module
from pathlib import Path

import pandas as pd

from stages.lib.networks import checkpoint
from stages.lib.params import from_params, require, run
from stages.lib.report import figures, pair_sheet, pictures, provenance
from stages.lib.report.neighbourhoods import Map
from stages.lib.report.page import render
from stages.lib.report.results import defined, evaluate, lesions, read

SECTIONS = {  # of the page, in its order: stages/page/sections/<name>.html.j2 and the title
    "run": "What was run",
    "scores": "Scores",
    "segmentation": "Segmentation of lesions",
    "confusion": "Confusion matrices",
    "roc": "ROC curves",
    "patients": "Per patient",
    "pairs": "Pairs as the method saw them",
    "pretraining": "Pretraining",
    "features": "Features of held-out clips in two dimensions",
    "grad_cam": "Where the network looked",
    "us4": "Clips used and left out",
    "licences": "Data, licences and citations",
    "limits": "Limits",
}
NEEDED = {"segmentation": "segmented", "pairs": "pairs", "features": "feature_maps", "grad_cam": "explained"}  # or left out

PAGES = ("reports/report.html", "models/README.md", "reports/data_card.md")  # of stages/page/<file name>.j2
METRICS = (  # the scores that stand in reports/metrics.json
    "balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high", "balanced_accuracy_seed_sd", "auroc",
    "frame_accuracy", "published_protocol_accuracy", "linear_probe_balanced_accuracy", "knn_probe_balanced_accuracy",
    "dice", "dice_low", "dice_high", "mask_ap", "box_ap",            # segmentation
    "held_out_loss", "knn_accuracy",                                 # pretraining
)


def main(
    seed: int,
    collection: str,
    copy_distance: dict,
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
    worst_clips: int,
    tsne: dict,
    baselines: list,
) -> None:
    """Score every task of `finetune.tasks` from its predictions; write all outputs, or none where something fails."""
    names = finetune["tasks"]
    check_choices(names, tasks, bootstrap_samples, confidence, worst_clips, baselines)
    tsne = from_params(Map, tsne, "report.tsne", seed=seed)
    results = [evaluate(name, tasks[name]["classes"], baselines, bootstrap_samples, confidence, seed) for name in names]
    segmented = {f"{name}_segmentation": lesions(name, bootstrap_samples, confidence, seed) for name in segment["tasks"]}
    epochs, facts = read("reports/pretrain.csv", pd.read_csv), checkpoint.facts()
    looks = epochs.filter(["knn_accuracy", "alignment", "uniformity"]).dropna(how="all")
    pretrained = {name: facts[name] for name in ("held_out_loss", "epoch")} | dict(looks.iloc[-1] if len(looks) else {})
    pretrained = defined(pretrained)
    scores = {result["task"]: result["metrics"] for result in results} | segmented | {"pretrain": pretrained}
    parameters = {"seed": seed, "collection": collection, "copy_distance": copy_distance,
                  "extract_frames": extract_frames, "assemble_us4": assemble_us4, "pretrain": pretrain,
                  "methods": methods, "views": views, "finetune": finetune, "tasks": {name: tasks[name] for name in names}}
    parameters |= {"segment": segment} if segmented else {}
    parameters["report"] = {"bootstrap_samples": bootstrap_samples, "confidence": confidence, "worst_clips": worst_clips,
                            "tsne": {"perplexity": tsne.perplexity}, "baselines": baselines}
    parameters = provenance.flat(parameters)
    used = dict.fromkeys([*assemble_us4["sources"], *names, *segment["tasks"]])
    maps = tsne.of_run(results)
    values = {
        "segmented": segmented,
        "pairs": pair_sheet.section(epochs, pictured=worst_clips > 0),
        "feature_maps": maps if any(maps.values()) else {},
        **pictures.of_run(results, worst_clips),
    }
    absent = [name for name, values_of in NEEDED.items() if not values[values_of]]
    values |= {
        "sections": {name: title for name, title in SECTIONS.items() if name not in absent},
        "results": results,
        "method": pretrain["method"],
        "tasks": ", ".join(names),
        "pretrained_start": finetune["init"] == "pretrained",
        "interval": f"{100 * confidence:g}\u00a0%",
        "seeds": finetune["seeds"],
        "phantom": collection == "phantom",
        "perplexity": tsne.perplexity,
        "facts": facts,
        "pretrained": pretrained,
        "epochs": len(epochs),
        "losses": figures.losses(epochs, pretrained["epoch"]),
        "measures": figures.measures(looks.assign(epoch=epochs["epoch"])) if len(looks) else "",
        "audit": read("reports/us4_audit.csv").to_dict("records"),
        "sources": {name: import_module(f"stages.sources.{name}") for name in used},
        "parameters": parameters,
        "changes": provenance.changes(parameters),
        "bootstrap_samples": bootstrap_samples,
        "baselines": baselines,
        "checkpoint": provenance.checkpoint(),
    }
    _write({path: render(f"{Path(path).name}.j2", **values) for path in PAGES} | numbers(scores) | plots(results))
    tell(results, confidence)


def check_choices(
    names: list, tasks: dict, bootstrap_samples: int, confidence: float, worst_clips: int, baselines: list
) -> None:
    """Raise UserError unless each of these settings is possible."""
    require(bool(names), "params.yaml: finetune.tasks is empty; name at least one task")
    require(bootstrap_samples > 0, f"params.yaml: report.bootstrap_samples is {bootstrap_samples}; it must be above 0")
    require(0 < confidence < 1, f"params.yaml: report.confidence is {confidence}; it must lie between 0 and 1")
    require(worst_clips >= 0, f"params.yaml: report.worst_clips is {worst_clips}; choose 0 (no pictures of clips) or more")
    for name in names:
        require(name in tasks, f"params.yaml: finetune.tasks names {name}, which tasks does not describe")
    texts = all(isinstance(name, str) and name for name in baselines)
    require(texts, f"params.yaml: report.baselines is {baselines}; it lists experiments, branches, tags or commits, as texts")


def numbers(scores: dict[str, dict]) -> dict[str, str]:
    """All scores, and those of METRICS, as JSON: path → text."""
    metrics = {part: {name: values[name] for name in METRICS if name in values} for part, values in scores.items()}
    files = {"reports/scores.json": scores, "reports/metrics.json": metrics}
    return {path: json.dumps(content, indent=2, allow_nan=False) + "\n" for path, content in files.items()}


def plots(results: list[dict]) -> dict[str, str]:
    """What `dvc plots` draws: path → csv."""
    outputs = {}
    for name in ("confusion", "roc", "per_class"):
        table = pd.concat([result[name].assign(task=result["task"]) for result in results]).round(4)
        outputs[f"reports/plots/{name}.csv"] = table.to_csv(index=False, lineterminator="\n")
    return outputs


def tell(results: list[dict], confidence: float) -> None:
    """Print the scores, what could not be compared, and what to look at next."""
    for result in results:
        print("{0}: balanced accuracy {balanced_accuracy}, {1:g} % interval {balanced_accuracy_low} to "
              "{balanced_accuracy_high}".format(result["task"], 100 * confidence, **result["metrics"]))
        for baseline in result["baselines"]:
            if "note" in baseline:
                print(f"report.baselines: {baseline['note']}")
    print("now open reports/report.html in a browser; reports/scores.json holds its numbers, models/README.md describes the "
          "networks, reports/data_card.md the pretraining set")


def _write(outputs: dict[str, str]) -> None:
    """Write every file beside its place first, so that a failure leaves no half of a report."""
    with tempfile.TemporaryDirectory(dir="reports") as partial:
        for path, text in outputs.items():
            (Path(partial) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(partial) / path).write_text(text, encoding="utf-8")
        Path("reports/plots").mkdir(exist_ok=True)
        for path in outputs:
            os.replace(Path(partial) / path, path)


if __name__ == "__main__":
    run(main, stage="report")
