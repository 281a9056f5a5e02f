"""The report stage on small made-up predictions: its numbers recomputed here, its page parsed, its refusals read."""

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_frame_store
from markupsafe import escape
from sklearn import metrics

from stages import report
from stages.lib.evaluation import comparison, external, intervals, scores
from stages.lib.evaluation.floors import NAMES
from stages.lib.networks import checkpoint
from stages.lib.params import UserError, checked, require
from stages.tools import compare

CLASSES = {"pocus": ["covid", "pneumonia", "regular"], "gallbladder": ["normal", "malignant"]}
NASTY = "../Cov_<script>alert(1)</script> & é\n| `x` '\" =cmd|' /C calc'!A0" + "n" * 4000 + ".mp4"
FINETUNE = {"tasks": list(CLASSES), "folds": 5, "init": "pretrained", "select": "last_epoch", "inner_fraction": 0.2,
            "label_fraction": 1.0, "seeds": [0], "fold_seeds": [0], "trainable": "all", "views": {"mean": 0.5, "std": 0.25},
            "grad_cam": {"per_fold": 1}}
AUDIT = "source outcome reason clip copy_of distance clips frames patients labels".split()
VOID = {"meta", "link", "br", "img", "hr", "input", "path", "use"}


def parameters(**changes) -> dict:
    """Keyword arguments of main(): what dvc.yaml declares for the stage, little of it."""
    values = {
        "seed": 0,
        "collection": "phantom",
        "extract_frames": {"sources": ["butterfly"], "size_px": 64, "geometry": "fan", "frame_rate_hz": 3.0,
                           "max_frames_per_clip": 30, "assumed_frame_rate_hz": 25.0},
        "assemble_us4": {"sources": ["butterfly"], "held_out_fraction": 0.2},
        "copy_distance": {"clips": 0.25, "stills": 0.15},
        "pretrain": {"method": "simclr", "epochs": 4, "steps_per_epoch": None},
        "views": {"pipeline": "published"},
        "methods": {"simclr": {"temperature": 0.5, "optimizer": {"learning_rate": 3.0e-4}}},
        "finetune": FINETUNE,
        "segment": {"tasks": [], "folds": 5, "init": "pretrained", "score_threshold": 0.5},
        "tasks": {task: {"classes": classes, "subsets": []} for task, classes in CLASSES.items()},
        "bootstrap_samples": 200,
        "confidence": 0.95,
        "worst_clips": 2,
        "tsne": {"perplexity": 5},
        "baselines": [],
    }
    return values | changes


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A finished run in an empty folder, which becomes the working directory."""
    monkeypatch.chdir(tmp_path)
    write_run(CLASSES)
    return tmp_path


def write_run(tasks: dict[str, list[str]]) -> None:
    """What the stages before the report leave behind, made up, for these tasks and their classes."""
    for folder in ("reports/pairs", "reports/predictions", "reports/finetune", "data/folds", "models"):
        Path(folder).mkdir(parents=True)
    for task, classes in tasks.items():
        write_task(task, classes, np.random.default_rng(len(task)))
    epochs = pd.DataFrame({"epoch": range(4), "loss": [3.0, 2.5, 2.2, 2.1], "held_out_loss": [3.1, 2.8, 2.6, 2.7],
                           "alignment": [math.nan, 0.5, math.nan, 0.4], "uniformity": [math.nan, -1, math.nan, -1.5],
                           "knn_accuracy": math.nan, "negative_low": [math.nan, 0.2, 0.15, 0.1],
                           "negative_high": [math.nan, 0.4, 0.3, 0.2]})
    epochs.to_csv("reports/pretrain.csv", index=False)
    pairs = pd.DataFrame({"epoch": [1] * 6 + [3] * 6, "pair": [*range(6)] * 2, "clip": "a.mp4"})
    pairs = pairs.assign(source=["lusms", "clust"] * 6, frame_distance=range(12), weight=np.linspace(0.4, 0.6, 12))
    pairs = pairs.assign(clip_frames=20, negative_frame_distance=np.linspace(1, 8, 12))
    pairs.to_csv("reports/pairs/pairs.csv", index=False)
    lines = [("spread", NASTY, "left", "3 7", "0.625 0.375", ""), ("spread", NASTY, "anchor", "3", "1.000", ""),
             ("spread", "b.mp4", "cross-video negative", "5", "1.000", 0.812),
             ("lowest_weight", "c.mp4", "anchor", "9", "1.000", "")]
    views = pd.DataFrame(lines, columns=["choice", "clip", "role", "frames", "mix", "share"])
    views = views.assign(example=[0, 0, 0, 1], source="lusms", weight=[0.25] * 3 + [0.125], frame_distance=[4, 4, 4, 1])
    views.to_csv("reports/pairs/views.csv", index=False)
    np.save("reports/pairs/views.npy", np.random.default_rng(0).integers(0, 256, (4, 16, 16), dtype=np.uint8))
    audit = [("butterfly", "train", "", "", "", "", 20, 200, 3, "Cov 8, Reg 12")]
    audit += [("butterfly", "left_out", "no video", name, "", "", 1, 0, 0, "Cov 1") for name in ("a.mp4", NASTY)]
    pd.DataFrame(audit, columns=AUDIT).to_csv("reports/us4_audit.csv", index=False)
    facts = {"method": "simclr", "arch": "resnet18", "epoch": 2, "held_out_loss": 2.6, "device": "cpu"}
    facts |= {"clips": 20, "frames": 200, "size_px": 64, "torch": "2.0", "threads": [1, 2]}
    facts |= {"about": "SimCLR: two views of a frame attract (Chen et al. 2020, arXiv 2002.05709)."}
    checkpoint.write({"conv1.weight": torch.zeros(1)}, facts)


def write_task(task: str, classes: list[str], rng: np.random.Generator, seeds: tuple[int, ...] = (0,)) -> None:
    """Folds, predictions, probes and epochs of 40 clips of 20 patients; the last ten clips have no known patient."""
    clips = pd.DataFrame({"clip": [NASTY, *(f"{task} {number}.mp4" for number in range(1, 40))]})
    clips["patient"] = [f"p{number % 15}" if number < 30 else "" for number in range(40)]
    clips["fold"] = [number % 15 % 5 for number in range(40)]
    clips["label"] = [classes[number % len(classes)] for number in range(40)]
    left_out = pd.DataFrame({"clip": ["odd.mp4"], "patient": "", "label": "odd", "fold": None, "left_out": "no class"})
    folds = pd.concat([clips.assign(left_out=""), left_out]).assign(copy_of="")
    folds.astype({"fold": "Int64"}).to_csv(f"data/folds/{task}.csv", index=False)
    write_frame_store(Path("data/frames", task), [{"clip": clip, "frames_kept": 3} for clip in folds["clip"]], 16)
    frames = clips.loc[clips.index.repeat(3)].assign(frame=np.tile(range(3), 40))
    by_seed = [chances(frames, classes, rng).assign(division=0, seed=seed) for seed in seeds]
    pd.concat(by_seed).to_csv(f"reports/predictions/{task}.csv", index=False)
    for kind, names in (("probe", ("linear", "knn")), ("floor", NAMES)):
        Path(f"reports/{kind}s").mkdir(exist_ok=True)
        tables = [chances(clips, classes, rng).assign(division=0, **{kind: name}) for name in names]
        pd.concat(tables).to_csv(f"reports/{kind}s/{task}.csv", index=False)
    external.write(f"reports/external/{task}", {}, pd.DataFrame(columns=external.PREDICTIONS))
    epochs = [(0, seed, fold, epoch, 1.0, 9 + (fold * epoch + seed) % 4, 24)
              for seed in seeds for fold in range(5) for epoch in range(3)]
    columns = ["division", "seed", "fold", "epoch", "loss", "held_out_correct", "held_out_frames"]
    pd.DataFrame(epochs, columns=columns).to_csv(f"reports/finetune/{task}.csv", index=False)


def chances(table: pd.DataFrame, classes: list[str], rng: np.random.Generator) -> pd.DataFrame:
    """The table with random probabilities, somewhat better than chance."""
    logits = rng.normal(size=(len(table), len(classes))) + (table["label"].to_numpy()[:, None] == np.array(classes))
    values = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return table.assign(**{f"p_{name}": values[:, number].round(6) for number, name in enumerate(classes)})


def edit(path: str, change) -> None:
    """Rewrite a csv as `change` makes it of the table."""
    change(pd.read_csv(path, dtype={"patient": str}, keep_default_na=False)).to_csv(path, index=False)


class Page(HTMLParser):
    """Tags in order, checked to close as they opened; text; attributes."""

    def __init__(self, source: str):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_metrics_are_those_of_the_prediction_files(run):
    report.main(**parameters())
    written = json.loads(Path("reports/scores.json").read_text())
    assert set(written) == {*CLASSES, "pretrain"}
    assert written["pretrain"] == {"held_out_loss": 2.6, "epoch": 2}
    for task, classes in CLASSES.items():
        columns = [f"p_{name}" for name in classes]
        frames = pd.read_csv(f"reports/predictions/{task}.csv")
        clips = frames.groupby("clip").agg({"label": "first", "fold": "first", **dict.fromkeys(columns, "mean")})
        guess = np.array(classes)[clips[columns].to_numpy().argmax(1)]
        frame_guess = np.array(classes)[frames[columns].to_numpy().argmax(1)]
        probed = pd.read_csv(f"reports/probes/{task}.csv")
        probed["guess"] = np.array(classes)[probed[columns].to_numpy().argmax(1)]
        folds = [metrics.balanced_accuracy_score(clips["label"][fold], guess[fold])
                 for fold in (clips["fold"] == number for number in range(5))]
        score = clips[columns[-1]] if len(classes) == 2 else clips[sorted(columns)]
        actual = clips["label"] == classes[-1] if len(classes) == 2 else clips["label"]
        expected = {
            "balanced_accuracy": metrics.balanced_accuracy_score(clips["label"], guess),
            "accuracy": metrics.accuracy_score(clips["label"], guess),
            "macro_f1": metrics.f1_score(clips["label"], guess, average="macro"),
            "auroc": metrics.roc_auc_score(actual, score, multi_class="ovr"),
            "frame_accuracy": metrics.accuracy_score(frames["label"], frame_guess),
            "frame_balanced_accuracy": metrics.balanced_accuracy_score(frames["label"], frame_guess),
            "fold_sd": np.std(folds, ddof=1),
            "published_protocol_accuracy": sum(max(9 + fold * e % 4 for e in range(3)) for fold in range(5)) / 120,
            "clips": 40,
            "patients": 25,
            "groups": 25,
        }
        for name, part in probed.groupby("probe"):
            expected[f"{name}_probe_balanced_accuracy"] = metrics.balanced_accuracy_score(part["label"], part["guess"])
        numbers = {name: number for name, number in written[task].items() if "floor" not in name and "random" not in name}
        low, high = numbers.pop("balanced_accuracy_low"), numbers.pop("balanced_accuracy_high")
        assert low < numbers["balanced_accuracy"] < high
        assert numbers == pytest.approx(expected, abs=5.1e-5)


def test_plots_hold_every_clip_class_and_curve(run):
    report.main(**parameters())
    plots = {path.stem: pd.read_csv(path) for path in Path("reports/plots").iterdir()}
    assert set(plots) == {"confusion", "roc", "per_class"}
    assert plots["confusion"].groupby("task").size().to_dict() == {"pocus": 40, "gallbladder": 40}
    assert plots["per_class"][["task", "class"]].values.tolist() == [[t, c] for t in CLASSES for c in CLASSES[t]]
    assert plots["roc"].groupby(["task", "class"]).ngroups == 5
    for task, lines in plots["confusion"].groupby("task"):
        numbers = json.loads(Path("reports/scores.json").read_text())[task]
        assert (lines["actual"] == lines["predicted"]).mean() == pytest.approx(numbers["accuracy"], abs=5.1e-5)


def test_page_stands_alone_and_says_what_matters(run):
    report.main(**parameters())
    source = Path("reports/report.html").read_text(encoding="utf-8")
    page = Page(source)
    text = re.sub(r"\s+", " ", " ".join(page.words))
    tags = [tag for tag, _ in page.tags]
    assert not {"link", "iframe"} & set(tags) and tags.count("script") == 1
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            inside = {"img": "data:image/png;base64,", "a": ("#", "https://")}.get(tag, "#")    # a link asks for nothing
            assert (attributes.get(name) or "#").startswith(inside) or name not in attributes
        assert tag != "img" or attributes["alt"]
    assert not re.search(r"url\((?!#)|@import", source)
    headings = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(headings, headings[1:], strict=False))
    pictures = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert all(attributes["aria-label"] for attributes in pictures)
    assert tags.count("svg") == 7 <= len(pictures)
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    for sentence in ("Simulated clips.", "Research only, not for diagnosis.", "selected on the test fold", "paired difference"):
        assert sentence in text
    for numbers in list(json.loads(Path("reports/scores.json").read_text()).values())[:2]:
        for name, number in numbers.items():
            share = (f"{number:.3f}" if name == "auroc" else f"{100 * number:.1f}").replace("-", "−")
            assert (str(number) if isinstance(number, int) else share) in text, name
    assert "methods.simclr.optimizer.learning_rate" in text


def test_several_seeds_are_averaged_and_their_spread_is_shown(run):
    """Each number is the mean of what the seeds give alone; the page says how they were run."""
    seeds, alone = (4, 5, 7), []
    for seed in seeds:
        write_task("pocus", CLASSES["pocus"], np.random.default_rng(seed), (seed,))
        report.main(**parameters())
        alone.append(json.loads(Path("reports/scores.json").read_text())["pocus"])
    parts = [pd.read_csv(f"reports/{name}/pocus.csv")[:0] for name in ("predictions", "finetune")]
    for seed in seeds:
        write_task("pocus", CLASSES["pocus"], np.random.default_rng(seed), (seed,))
        names = ("predictions", "finetune")
        parts = [pd.concat([part, pd.read_csv(f"reports/{name}/pocus.csv")]) for name, part in zip(names, parts, strict=True)]
    for name, part in zip(("predictions", "finetune"), parts, strict=True):
        part.to_csv(f"reports/{name}/pocus.csv", index=False)
    changes = {"seeds": [0, 1, 3], "select": "inner_validation", "label_fraction": 0.25}
    report.main(**parameters(seed=4, finetune=FINETUNE | changes))
    numbers = json.loads(Path("reports/scores.json").read_text())["pocus"]
    assert numbers["clips"] == 40 and numbers["patients"] == 25
    for name in ("balanced_accuracy", "accuracy", "macro_f1", "auroc", "frame_accuracy", "frame_balanced_accuracy",
                 "published_protocol_accuracy"):
        values = [single[name] for single in alone]
        assert numbers[name] == pytest.approx(np.mean(values), abs=1.1e-4)
        assert numbers[f"{name}_seed_sd"] == pytest.approx(np.std(values, ddof=1), abs=1.1e-4)
    page = Path("reports/report.html").read_text(encoding="utf-8")
    Page(page)
    shown = f"{100 * numbers['balanced_accuracy']:.1f} ± {100 * numbers['balanced_accuracy_seed_sd']:.1f}"
    for sentence in (shown, "4; fine-tuning: 4, 5, 7", "Mean ± SD over 3 seeds", "of 25&nbsp;% of each class’s",
                     "on 20&nbsp;% of each class’s training patients, set aside", "Clips (120)"):
        assert sentence in page


def test_page_escapes_the_names_of_clips_and_lists_what_was_left_out(run):
    edit("data/folds/pocus.csv", lambda table: table.replace({"odd.mp4": f"odd {NASTY}"}))
    report.main(**parameters())
    source = Path("reports/report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in source and source.count("<script") == 1  # the page's own
    assert source.count(str(escape(NASTY))) == 3
    for listed in (f"<b>{escape(NASTY)}</b>: no video", f"<b>odd {escape(NASTY)}</b>: no class"):
        assert listed in source


def test_the_leak_guard_is_counted_and_its_clips_are_named(run):
    rows = [("is an evaluation clip", "b.mp4", "pocus/x.mp4", ""), ("is an evaluation clip", "c.mp4", "pocus/y.mp4", ""),
            ("looks like an evaluation clip", NASTY, "pocus/z.mp4", 0.12)]
    added = pd.DataFrame([("butterfly", "left_out", *row, 1, 0, 0, "Cov 1") for row in rows], columns=AUDIT)
    edit("reports/us4_audit.csv", lambda table: pd.concat([table, added]))
    edit("data/folds/pocus.csv", lambda table: table.assign(
        copy_of=table["copy_of"].mask(table["clip"] == "pocus 2.mp4", "pocus 7.mp4 (distance 0.21)")))
    report.main(**parameters())
    source = Path("reports/report.html").read_text(encoding="utf-8")
    assert "Leak guard: 2 clips left out as evaluation clips (the same file), 1 clip as likely copies" in source
    named = "butterfly/{}</th><td class=\"text value\">pocus/{}</td><td{}</td>"
    for row in (("b.mp4", "x.mp4", ' data-value="0">same file'), (escape(NASTY), "z.mp4", ">0.12")):
        assert named.format(*row) in source
    assert "Leak guard: 1 clip looked like one of another patient or label." in source
    assert "<b>pocus 2.mp4</b> (regular): pocus 7.mp4 (distance 0.21)" in source
    Page(source)


def test_the_page_counts_remarks_on_clips_that_stay(run):
    rows = [("lusms", outcome, reason, f"{outcome}.mp4", "", "", 1, 9, 0, "") for outcome, reason in (
        ("frames_damaged", "damaged frames"), ("noted", "its header says 0 Hz"), ("burned_in", "letters inside its crop"))]
    edit("reports/us4_audit.csv", lambda table: pd.concat([table, pd.DataFrame(rows, columns=AUDIT)]))
    report.main(**parameters(finetune=FINETUNE | {"tasks": ["pocus"]}))
    source = Path("reports/report.html").read_text(encoding="utf-8")
    assert "<summary>butterfly: 2 clips left out for other reasons</summary>" in source
    assert "<summary>lusms: 3 remarks on clips that stay</summary>" in source
    Page(source)


def test_recorded_clips_get_no_phantom_banner_and_random_weights_are_named(run):
    report.main(**parameters(collection="raw", finetune=FINETUNE | {"tasks": ["pocus"], "init": "random"}))
    source = Path("reports/report.html").read_text(encoding="utf-8")
    assert "Simulated clips." not in source and "pretraining below was not used" in source
    assert "<h1>random initial weights, tested on pocus</h1>" in source and "<title>Sonopair: random weights, pocus" in source
    assert set(json.loads(Path("reports/scores.json").read_text())) == {"pocus", "pretrain"}


def test_a_class_without_clips_is_said_to_be_undefined(run):
    tasks = parameters()["tasks"] | {"pocus": {"classes": [*CLASSES["pocus"], "viral"], "subsets": []}}
    for name in ("predictions", "probes", "floors"):
        edit(f"reports/{name}/pocus.csv", lambda table: table.assign(p_viral=0.0))
    report.main(**parameters(tasks=tasks))
    assert "auroc" not in json.loads(Path("reports/scores.json").read_text())["pocus"]
    assert "AUROC is undefined: no clip of class viral." in Path("reports/report.html").read_text(encoding="utf-8")


def test_an_empty_audit_and_a_loss_without_held_out_clips_are_no_error(run):
    edit("reports/us4_audit.csv", lambda table: table[:0])
    edit("reports/pretrain.csv", lambda table: table.assign(held_out_loss=""))
    report.main(**parameters())
    assert "The audit lists no clip." in Path("reports/report.html").read_text(encoding="utf-8")


def test_the_pretraining_figures_are_drawn_where_there_is_something_to_draw(run):
    """Losses always; the measures of the epochs that were looked at."""
    def figures():
        report.main(**parameters())
        page = Path("reports/report.html").read_text(encoding="utf-8")
        section = page[page.index('<section id="pretraining"') : page.index('<section id="us4"')]
        return section.count("<svg"), section

    number, section = figures()
    assert number == 2 and "kNN accuracy" not in section and "uniformity" in section
    edit("reports/pretrain.csv", lambda table: table.assign(knn_accuracy=[math.nan, 0.5, math.nan, 0.75]))
    assert "kNN accuracy" in figures()[1] and "knn_accuracy 0.750" in figures()[1]
    assert "knn_accuracy" not in json.loads(Path("reports/metrics.json").read_text())["pretrain"], "that is of other weights"
    edit("reports/pretrain.csv", lambda table: table.drop(columns=["alignment", "uniformity", "knn_accuracy"]))
    assert figures()[0] == 1


def test_all_scores_of_pretraining_are_those_of_the_kept_weights(run):
    edit("reports/pretrain.csv", lambda table: table.assign(knn_accuracy=[math.nan, 0.5, math.nan, 0.75]))
    checkpoint.write({"conv1.weight": torch.zeros(1)}, checkpoint.facts() | {"knn_accuracy": 0.25})
    report.main(**parameters())
    assert json.loads(Path("reports/metrics.json").read_text())["pretrain"] == {"held_out_loss": 2.6, "knn_accuracy": 0.25}


def test_segmentation_in_the_metrics_and_on_the_page(run):
    rng = np.random.default_rng(0)
    images = pd.DataFrame({"clip": [f"{number}.png" for number in range(12)], "patient": "", "fold": [0, 1] * 6,
                           "label": "benign", "lesions": 1, "found": [1, 0] * 6, "detections": range(12),
                           "dice": rng.random(12).round(3), "precision": [math.nan, *rng.random(11)], "sensitivity": 0.5})
    images.to_csv("reports/predictions/breast_segmentation.csv", index=False)
    images.assign(left_out="").to_csv("data/folds/breast_segmentation.csv", index=False)
    precisions = pd.DataFrame({"fold": [0, 1], "mask_ap": [0.2, 0.3], "mask_ap50": 0.6, "box_ap": 0.1, "box_ap50": 0.55})
    precisions.to_csv("reports/predictions/breast_segmentation_folds.csv", index=False)
    segment = {"tasks": ["breast"], "folds": 2, "init": "imagenet", "score_threshold": 0.4}
    tasks = parameters()["tasks"] | {"breast": {"classes": ["benign", "malignant"]}}
    report.main(**parameters(segment=segment, tasks=tasks))
    numbers = json.loads(Path("reports/scores.json").read_text())["breast_segmentation"]
    expected = {"dice": images["dice"].mean(), "precision": images["precision"][1:].mean(), "sensitivity": 0.5, "mask_ap": 0.25,
                "mask_ap_fold_sd": np.std([0.2, 0.3], ddof=1), "images": 12, "patients": 12, "lesions": 12, "found": 6,
                "detections": 66}
    assert {name: numbers[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert numbers["dice_low"] < numbers["dice"] < numbers["dice_high"]
    page = Path("reports/report.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="segmentation"') : page.index('<section id="confusion"')]
    assert f"{100 * numbers['dice']:.1f}</td>" in section and "25.0 ± 7.1" in section and "imagenet weights" in section
    assert "All in per cent." in section and "unless the clip table gives other ones" in section
    assert "12 images with 12 lesions, of which 6 were found (IoU above 0.5); 66 were detected" in section
    assert "segment.score_threshold" in page
    images[1:].to_csv("reports/predictions/breast_segmentation.csv", index=False)
    with pytest.raises(UserError, match="differ in 0.png; run `dvc repro -f segment@breast`"):
        report.main(**parameters(segment=segment, tasks=tasks))


def test_the_metrics_are_few_of_the_scores(run):
    report.main(**parameters())
    every, few = (json.loads(Path(f"reports/{name}.json").read_text()) for name in ("scores", "metrics"))
    assert set(few) == set(every) and sum(map(len, few.values())) < 0.7 * sum(map(len, every.values()))
    for part, numbers in few.items():
        assert numbers.items() <= every[part].items() and numbers
    assert {"balanced_accuracy", "frame_accuracy", "published_protocol_accuracy", "auroc"} <= set(few["pocus"])


def test_baselines_are_compared_as_the_tool_compares_and_a_missing_one_stops_nothing(run, monkeypatch, capsys):
    """The page holds what tools/compare prints of the same two tables; folds that differ and an unknown name are a sentence."""
    tables = {task: comparison.clip_table(Path(f"reports/predictions/{task}.csv").read_text()) for task in CLASSES}
    shifted = {task: table.assign(**{f"p_{CLASSES[task][0]}": 0.34}) for task, table in tables.items()}
    known = {"random": shifted, "refolded": {task: table.assign(fold=0) for task, table in tables.items()}}

    def had(task, baseline):
        require(baseline in known, f"{baseline} is not known")
        return known[baseline][task]

    monkeypatch.setattr(comparison, "predictions", had)
    report.main(**parameters(baselines=["random", "refolded", "nobody"]))
    source = Path("reports/report.html").read_text(encoding="utf-8")
    section = source[source.index("Against baselines") : source.index("pocus by class")]
    Page(source)
    for task in CLASSES:
        said = compare.describe(task, ("random", "this run"), [shifted[task], tables[task]], 200, 0.95, 0)
        numbers = [100 * float(number) for number in re.findall(r"[ (]([+-]?\d\.\d{3})", said)]     # both, difference, interval
        row = re.search(f'<th scope="row">{task}</th><td class="text">random</td>(.*?)</tr>', section).group(1)
        cells = re.findall("<td[^>]*>(.*?)</td>", row)
        signed = [float(text.replace("−", "-")) for text in [cells[2], *cells[3].split(" to ")]]
        assert [float(cells[0]), *signed] == pytest.approx([numbers[0], *numbers[2:5]], abs=0.1)
        own = intervals.interval(scores.outcome_counts(shifted[task], CLASSES[task]), 0.95)
        assert [float(text) for text in cells[1].split("–")] == pytest.approx([100 * value for value in own], abs=0.051)
        assert cells[5] == re.search("p = (.*)", said).group(1) and cells[6] in said
        assert f"<strong>{task}:</strong> not compared with nobody. nobody is not known." in section
        assert f"not compared with refolded. {task}: refolded and this run predicted different clips" in section
    assert "report.baselines: nobody is not known" in capsys.readouterr().out
    report.main(**parameters(baselines=["nobody"], finetune=FINETUNE | {"tasks": ["pocus"]}))
    source = Path("reports/report.html").read_text(encoding="utf-8")
    section = source[source.index("Against baselines") : source.index("pocus by class")]
    assert "not compared with nobody" in section and "<table" not in section and "McNemar" not in section


def test_without_baselines_the_page_says_how_to_name_one_and_what_chance_is(run):
    report.main(**parameters())
    source = Path("reports/report.html").read_text(encoding="utf-8")
    assert "No baseline was named." in source and "-S 'report.baselines=[random]'" in source
    assert re.search('<th scope="row">pocus</th>.*?<td>33.3</td>', source)
    assert re.search('<th scope="row">gallbladder</th>.*?<td>50.0</td>', source)


def remove(path: str):
    return lambda: Path(path).unlink()


def empty(path: str):
    return lambda: Path(path).write_text("")


POCUS = "reports/predictions/pocus.csv"
MISTAKES = {
    "predictions/pocus.csv is missing": remove(POCUS),
    "predictions/pocus.csv cannot be read": empty(POCUS),
    "predictions/pocus.csv is empty": lambda: edit(POCUS, lambda table: table[:0]),
    "no column p_covid": lambda: edit(POCUS, lambda table: table.drop(columns="p_covid")),
    "label viral": lambda: edit(POCUS, lambda table: table.replace({"label": {"covid": "viral"}})),
    "has an empty probability": lambda: edit(POCUS, lambda table: table.assign(p_covid="")),
    "differ in pocus 7.mp4": lambda: edit(POCUS, lambda table: table[table["clip"] != "pocus 7.mp4"]),
    "patient p1 is in two folds": lambda: edit(
        POCUS, lambda table: table.assign(fold=table["fold"].mask(table["clip"] == "pocus 1.mp4", 3))
    ),
    "data/folds/pocus.csv is missing": remove("data/folds/pocus.csv"),
    "probes/pocus.csv is missing": remove("reports/probes/pocus.csv"),
    "floors/pocus.csv is missing; run `dvc repro -f finetune@pocus`": remove("reports/floors/pocus.csv"),
    "finetune/pocus.csv is missing": remove("reports/finetune/pocus.csv"),
    "pretrain.csv is missing": remove("reports/pretrain.csv"),
    "pairs.csv is missing": remove("reports/pairs/pairs.csv"),
    "views.npy is missing": remove("reports/pairs/views.npy"),
    "reports/pairs/views.npy cannot be read": empty("reports/pairs/views.npy"),
    "views.csv and views.npy differ in length": lambda: edit("reports/pairs/views.csv", lambda table: table[1:]),
    "us4_audit.csv cannot be read": empty("reports/us4_audit.csv"),
    "pretrained.safetensors is missing": remove("models/pretrained.safetensors"),
    "pretrained.safetensors cannot be read": empty("models/pretrained.safetensors"),
}


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> Path:
    """A finished run with its report; tests copy it."""
    folder = tmp_path_factory.mktemp("reported")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_run(CLASSES)
        report.main(**parameters())
    return folder


@pytest.mark.parametrize("sentence", MISTAKES)
def test_mistakes_get_a_sentence_and_leave_the_last_report_whole(reported, tmp_path, monkeypatch, sentence):
    shutil.copytree(reported, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in [*Path("reports").glob("*.*"), *Path("reports/plots").iterdir()]}
    MISTAKES[sentence]()
    with pytest.raises(UserError, match=re.escape(sentence)):
        report.main(**parameters(seed=1))
    for name in ("report.html", "metrics.json", "scores.json", "plots/roc.csv", "plots/confusion.csv", "plots/per_class.csv"):
        assert Path("reports", name).read_bytes() == before[Path("reports", name)]


@pytest.mark.parametrize("key, changes", {
    "finetune.tasks is []; it must be a list of length 1 or more": {"finetune": FINETUNE | {"tasks": []}},
    "segment.tasks names 'lung'": {"finetune": FINETUNE | {"tasks": ["lung"]}},
    "report.tsne.perplexity is 0.5; it must be 1 or more": {"tsne": {"perplexity": 0.5}},
}.items())
def test_impossible_parameters_are_named(run, key, changes):
    with pytest.raises(UserError, match=re.escape(key)):
        report.main(**checked(report.main, parameters(**changes), "report"))


@pytest.mark.parametrize("sentence, changes", {
    "report.bootstrap_samples is 0; it must be 1 or more": {"bootstrap_samples": 0},
    "report.confidence is 95.0; it must be below 1": {"confidence": 95.0},
    "report.worst_clips is -1; it must be 0 or more": {"worst_clips": -1},
    "report.baselines.0 is 1234567; it must be a text": {"baselines": [1234567]},
}.items())
def test_impossible_values_of_the_block_are_named(sentence, changes):
    block = {name: parameters()[name] for name in ("bootstrap_samples", "confidence", "worst_clips", "tsne", "baselines")}
    others = set(parameters()) - set(block)
    checked(report.main, block, "report", others)
    with pytest.raises(UserError, match=re.escape(sentence)):
        checked(report.main, block | changes, "report", others)


def test_the_same_inputs_give_the_same_bytes(run):
    report.main(**parameters())
    first = Path("reports/report.html").read_bytes()
    report.main(**parameters())
    assert Path("reports/report.html").read_bytes() == first
