"""Score the whole run: numbers and plots for DVC, two cards, and one HTML page.

reads   reports/predictions/<task>.csv   division, seed, clip, patient, fold, frame, label, p_<class> …: one line per frame
        reports/predictions/<task>_segmentation.csv, _folds.csv    a line per image and per fold (stages/segment.py)
        reports/probes/<task>.csv        probe, division, clip, patient, fold, label, p_<class> …: a line per held-out clip
        reports/floors/<task>.csv        floor, division, clip, patient, fold, label, p_<class> …: a line per held-out clip
        reports/external/<task>/         predictions.csv, clips.csv: outside tests (stages/finetune.py)
        reports/features/<task>/         features of clips before fine-tuning; pretrain/: of clips held out from pretraining
        reports/grad_cam/<task>/         maps.npy, maps.csv: Grad-CAM of held-out frames (stages/finetune.py)
        data/frames/<source>/            only the frames that the page shows
        reports/finetune/<task>.csv      division, seed, fold, epoch, loss, held_out_correct, held_out_frames
        data/folds/<task>.csv            clip, patient, label, fold, copy_of, left_out
        reports/pretrain.csv             epoch, loss, held_out_loss, …
        reports/pairs/                   pairs.csv, views.csv, views.npy (stages/lib/pretraining/pairs.py)
        reports/us4_audit.csv            source, outcome, reason, clip, copy_of, distance, clips, frames, patients, labels
        models/pretrained.safetensors    the facts in its header, not the weights
        reports/predictions/<task>.csv of every run in report.baselines, from git and DVC's cache
writes  reports/scores.json              {task: {score: number}}, also <task>_segmentation and <task>_on_<source>;
                                         without undefined scores
        reports/metrics.json             the few of them for `dvc metrics diff` and `dvc exp show`
        reports/plots/confusion.csv      task, actual, predicted: a line per run and clip
        reports/plots/roc.csv            task, class, fpr, tpr
        reports/plots/per_class.csv      task, class, clips, precision, recall, specificity, f1, auroc
        reports/data_card.md             the card of the pretraining set
        models/README.md                 the card of the networks in models/
        reports/report.html              one file that needs no network, and no script to be complete
"""

import json
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Annotated

import pandas as pd
from annotated_types import Ge, MinLen

from stages.lib.clips import store
from stages.lib.clips.tasks import read_task
from stages.lib.evaluation.comparison import Confidence
from stages.lib.networks.backbone import Backbone
from stages.lib.networks.normalisation import filled_in
from stages.lib.params import Count, Names, Seed, block_of, from_params, having
from stages.lib.report import pictures, pretraining, provenance
from stages.lib.report.files import read
from stages.lib.report.neighbourhoods import Map
from stages.lib.report.page import filled, render
from stages.lib.report.results import evaluate, lesions
from stages.lib.running.stage import run

PAGES = ("reports/report.html", "models/README.md", "reports/data_card.md")  # from stages/lib/report/page/<file name>.j2
METRICS = (  # the scores in reports/metrics.json
    "balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high", "balanced_accuracy_seed_sd", "auroc",
    "highest_floor", "above_floor", "above_floor_low", "above_floor_high",
    "frame_accuracy", "published_protocol_accuracy", "linear_probe_balanced_accuracy", "knn_probe_balanced_accuracy",
    "dice", "dice_low", "dice_high", "mask_ap", "box_ap",            # segmentation
    "held_out_loss", "knn_accuracy",                                 # pretraining
)


def main(
    seed: Seed,
    collection: str,
    copy_distance: dict,
    extract_frames: dict,
    assemble_us4: having(sources=Names),
    pretrain: dict,
    methods: dict,
    views: dict,
    finetune: having(tasks=Annotated[Names, MinLen(1)]),
    segment: having(tasks=Names),
    tasks: dict,
    bootstrap_samples: Count,
    confidence: Confidence,
    worst_clips: Annotated[int, Ge(0)],
    tsne: block_of(Map, "seed"),
    baselines: Names,
) -> None:
    """Score every task of `finetune.tasks` from its predictions. Write all outputs, or none if something fails."""
    names = finetune["tasks"]
    described = {name: read_task(name, tasks) for name in dict.fromkeys([*names, *segment["tasks"]])}
    clip_map = from_params(Map, tsne, "report.tsne", seed=seed)
    bootstrap = {"samples": bootstrap_samples, "confidence": confidence, "seed": seed}
    results = [evaluate(described[name], baselines, **bootstrap) for name in names]
    segmented = {f"{name}_segmentation": lesions(name, **bootstrap) for name in segment["tasks"]}
    pretrained = pretraining.summary(pictured=worst_clips > 0)
    scores = {result["task"]: result["metrics"] | result["floors"]["metrics"] for result in results}
    scores |= {test["name"]: test["metrics"] for result in results for test in result["external"]} | segmented
    scores["pretrain"] = pretrained["pretrained"]
    parameters = {
        "seed": seed, "collection": collection, "copy_distance": copy_distance, "extract_frames": extract_frames,
        "assemble_us4": assemble_us4, "pretrain": pretrain, "methods": methods, "views": views, "finetune": finetune,
        "tasks": {name: tasks[name] for name in names}, **({"segment": segment} if segmented else {}),
        "report": {"bootstrap_samples": bootstrap_samples, "confidence": confidence, "worst_clips": worst_clips,
                   "tsne": tsne, "baselines": baselines},
    }  # fmt: skip
    parameters = provenance.flat(parameters)
    evaluated = [task.source for each in described.values() for task in (each, *each.external)]
    used = dict.fromkeys([*assemble_us4["sources"], *evaluated])
    values = {"results": results, "segmented": segmented, **pretrained, **pictures.of_run(results, worst_clips)}
    values |= {"feature_maps": clip_map.of_run(results), "audit": read("reports/us4_audit.csv").to_dict("records")}
    values |= {"sources": {name: import_module(f"stages.sources.{name}") for name in used}}
    backbone = Backbone(pretrained["facts"]["arch"])
    values |= {"backbone": backbone, "inputs": filled_in(finetune["views"], finetune["init"], backbone)}
    values |= provenance.values(parameters, results)
    values["sections"] = filled(values)
    _write({path: render(f"{Path(path).name}.j2", **values) for path in PAGES} | numbers(scores) | plots(results))
    tell(results, confidence)


def numbers(scores: dict[str, dict]) -> dict[str, str]:
    """All scores, and those of METRICS, as JSON: path → text."""
    metrics = {part: {name: values[name] for name in METRICS if name in values} for part, values in scores.items()}
    files = {"reports/scores.json": scores, "reports/metrics.json": metrics}
    return {path: json.dumps(content, indent=2, allow_nan=False) + "\n" for path, content in files.items()}


def plots(results: list[dict]) -> dict[str, str]:
    """The tables that `dvc plots` draws: path → csv."""
    outputs = {}
    for name in ("confusion", "roc", "per_class"):
        table = pd.concat([result[name].assign(task=result["task"]) for result in results]).round(4)
        outputs[f"reports/plots/{name}.csv"] = table.to_csv(index=False, lineterminator="\n")
    return outputs


def tell(results: list[dict], confidence: float) -> None:
    """Print the scores, the baselines that could not be compared, and where to look next."""
    for result in results:
        print("{0}: balanced accuracy {balanced_accuracy:.3f}, {1:g} % interval {balanced_accuracy_low:.3f} to "
              "{balanced_accuracy_high:.3f}".format(result["task"], 100 * confidence, **result["metrics"]))
        for baseline in result["baselines"]:
            if "note" in baseline:
                print(f"report.baselines: {baseline['note']}")
    print("Open reports/report.html in a browser. reports/scores.json holds its numbers, models/README.md describes the "
          "networks, and reports/data_card.md describes the pretraining set.")


def _write(outputs: dict[str, str]) -> None:
    """Write all files beside their places, then move them there: a failure leaves the last report whole."""
    with ExitStack() as written:
        for path, text in outputs.items():
            written.enter_context(store.replacing(path, folder=False)).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(main, stage="report", lower="report.worst_clips or report.bootstrap_samples")
