"""The page's sections on held-out clips, against loops over the files that a run leaves behind."""

import base64
import html
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import write_frame_store
from test_report import CLASSES, FINETUNE, Page, edit, parameters, run, write_task  # noqa: F401 (run is a fixture)

from stages import report
from stages.lib.clips import store
from stages.lib.networks import clip_features
from stages.lib.params import UserError
from stages.lib.report import overlay
from stages.lib.report.neighbourhoods import Map


def clip_lines(task):
    """The clips of the predictions, by a loop over the csv: seed and clip → patient, label, fold, mean probabilities."""
    found = {}
    for line in store.table(f"reports/predictions/{task}.csv").to_dict("records"):
        entry = found.setdefault((line["seed"], line["clip"]), line | {"all": []})
        entry["all"].append([line[f"p_{name}"] for name in CLASSES[task]])
    for entry in found.values():
        entry["mean"] = [sum(column) / len(entry["all"]) for column in zip(*entry["all"], strict=True)]
        entry["said"] = CLASSES[task][entry["mean"].index(max(entry["mean"]))]
        entry["own"] = entry["mean"][CLASSES[task].index(entry["label"])]
    return found


@pytest.fixture
def pictured(run):  # noqa: F811
    """A run with frame stores of both tasks, of 160 and of 48 px, and Grad-CAM maps and features of one."""
    for task, size_px in (("pocus", 160), ("gallbladder", 48)):
        clips = pd.read_csv(f"data/folds/{task}.csv", keep_default_na=False)
        write_frame_store(run / "data/frames" / task, [{"clip": clip, "frames_kept": 3} for clip in clips["clip"]], size_px)
    rng, clips = np.random.default_rng(3), list(clip_lines("pocus").values())
    chosen = [(clip, clip["said"] == clip["label"]) for clip in clips[:5]]
    maps = pd.DataFrame([{"seed": 0, "fold": clip["fold"], "clip": clip["clip"], "patient": clip["patient"], "frame": 1,
                          "label": clip["label"], "predicted": clip["said"], "probability": 0.5,
                          "clip_probability": max(clip["mean"]), "right": right} for clip, right in chosen])
    Path("reports/grad_cam/pocus").mkdir(parents=True)
    maps.to_csv("reports/grad_cam/pocus/maps.csv", index=False)
    heat = rng.integers(0, 256, (5, 160, 160), dtype=np.uint8)
    heat[2] = 0
    np.save("reports/grad_cam/pocus/maps.npy", heat)
    for task in ("pocus", "pretrain"):
        table = pd.DataFrame(clips)[["clip", "patient", "label"]]
        table = table.assign(source=["lusms", "clust"] * 20, pooled_class=["", "a", "b", "c"] * 10)
        clip_features.write(f"reports/features/{task}", rng.normal(size=(40, 7)), table)
    return run


def page(**changes):
    report.main(**parameters(**{"worst_clips": 4, **changes}))
    source = Path("reports/report.html").read_text(encoding="utf-8")
    Page(source)
    return source


def section(source, name):
    found = re.search(rf'<section id="{name}".*?</section>', source, re.DOTALL)
    return found and found[0]


def pixels(uri):
    data = np.frombuffer(base64.b64decode(uri.removeprefix("data:image/png;base64,")), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def images(source):
    return [dict(re.findall(r'(\w+)="([^"]*)"', tag)) for tag in re.findall("<img [^>]*>", source)]


@pytest.mark.parametrize("seeds", [(0,), (2, 5)])
def test_the_table_of_patients_is_a_loop_over_the_predictions(run, seeds):  # noqa: F811
    for task, classes in CLASSES.items():
        tables = []
        for seed in seeds:
            write_task(task, classes, np.random.default_rng(seed), (seed,))
            tables.append([pd.read_csv(f"reports/{kind}/{task}.csv") for kind in ("predictions", "finetune")])
        for number, kind in enumerate(("predictions", "finetune")):
            pd.concat([table[number] for table in tables]).to_csv(f"reports/{kind}/{task}.csv", index=False)
    source = section(page(worst_clips=0, finetune=FINETUNE | {"seeds": list(seeds)}), "patients")
    for task in CLASSES:
        expected = {}
        for (_, clip), line in clip_lines(task).items():
            new = {"clips": set(), "right": 0, "own": [], "wrong": {}, "labels": set()}
            entry = expected.setdefault(line["patient"] or clip, new)
            entry["clips"].add(clip)
            entry["labels"].add(line["label"])
            entry["own"].append(line["own"])
            entry["fold"] = line["fold"]
            if line["said"] == line["label"]:
                entry["right"] += 1
            else:
                entry["wrong"][line["said"]] = entry["wrong"].get(line["said"], 0) + 1 / len(seeds)
        body = re.search(rf'aria-label="{task}: held-out.*?<tbody>(.*?)</tbody>', source, re.DOTALL)[1]
        rows, before = [re.sub(r"</t[hd]>", "\t", row) for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)], -1.0
        assert len(rows) == len(expected) == 25
        for row in rows:
            value = float(re.search(r'data-value="(.*?)"', row)[1])
            name, labels, clips, right, own, fold, taken = map(html.unescape, re.sub("<.*?>", "", row).split("\t")[:7])
            entry = expected.pop(name)
            assert set(labels.split(", ")) == entry["labels"]
            assert int(clips) == len(entry["clips"]) and int(fold) == entry["fold"]
            assert float(right) == pytest.approx(entry["right"] / len(seeds), abs=5e-3)
            assert float(own) == pytest.approx(sum(entry["own"]) / len(entry["own"]), abs=6e-4) and float(own) >= before
            shown = dict(part.split(" × ") if "×" in part else (part, 1) for part in taken.split(", ")) if taken != "–" else {}
            assert {name: float(count) for name, count in shown.items()} == pytest.approx(entry["wrong"], abs=5e-3)
            assert value == pytest.approx(len(entry["clips"]) - entry["right"] / len(seeds))
            before = float(own)
            entry["outcome"] = 2 if not entry["right"] else int(entry["right"] < len(seeds) * len(entry["clips"]))
            expected[row] = entry
        for number, said in enumerate((" predicted correctly in all clips", " in some", " in none")):
            count = sum(entry["outcome"] == number for entry in expected.values())
            assert f"{count} ({4 * count:.1f}&nbsp;%){said}" in re.sub(r"\s+", " ", source)


def test_the_worst_clips_are_the_lowest_and_their_pictures_are_their_frames(pictured):
    source = section(page(), "patients")
    for task in CLASSES:
        lowest = sorted(clip_lines(task).values(), key=lambda clip: (clip["own"], clip["clip"]))[:4]
        part = source[source.index(f"<h3>{task}</h3>") :]
        part = part[: part.find("<h3>", 4)] if part.find("<h3>", 4) > 0 else part
        shown = images(part)
        assert len(shown) == 12
        table, stored = pd.read_csv(f"data/frames/{task}/frames.csv"), np.load(f"data/frames/{task}/frames.npy")
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", part, re.DOTALL)
        for clip, caption, pictures in zip(lowest, captions, np.reshape(shown, (4, 3)), strict=True):
            rows = table.loc[table["clip"] == clip["clip"], "row"]
            for row, frame, picture in zip(rows, range(3), pictures, strict=True):
                assert f"Frame {frame} of {clip['clip']}" in html.unescape(picture["alt"])
                side = min(112, stored.shape[1])
                assert (pixels(picture["src"]) == cv2.resize(stored[row], (side, side), interpolation=cv2.INTER_AREA)).all()
            verdict = "right" if clip["said"] == clip["label"] else "wrong"
            assert f"<strong>{verdict}</strong>" in caption and f"fold {clip['fold']}" in caption
            assert f"True class {clip['label']}, probability {clip['own']:.3f}; predicted {clip['said']}" in caption


def test_a_map_is_shown_over_its_frame_and_an_empty_one_is_said_to_be(pictured):
    source = section(page(), "grad_cam")
    assert "<h3>gallbladder" not in source
    maps, heat = pd.read_csv("reports/grad_cam/pocus/maps.csv"), np.load("reports/grad_cam/pocus/maps.npy")
    table, stored = pd.read_csv("data/frames/pocus/frames.csv"), np.load("data/frames/pocus/frames.npy")
    maps["number"] = range(5)
    maps = maps.sort_values(["right", "clip_probability"], ascending=[False, False])
    right, wrong = source.split("<h4>Wrong predictions</h4>")
    assert len(images(right)) == 2 * maps["right"].sum() and len(images(wrong)) == 2 * (~maps["right"]).sum()
    for line, pair in zip(maps.itertuples(), np.reshape(images(source), (5, 2)), strict=True):
        row = table.loc[(table["clip"] == line.clip) & (table["frame"] == 1), "row"].item()
        frame, small = (cv2.resize(part[number], (112, 112), interpolation=cv2.INTER_AREA)
                        for part, number in ((stored, row), (heat, line.number)))  # fmt: skip
        assert (pixels(pair[0]["src"]) == frame).all()
        assert (pixels(pair[1]["src"]) == overlay.blend(frame, small / 255)).all()
        assert ("which is empty" in pair[1]["alt"]) == (line.number == 2)
    assert source.count("The map is empty") == 1


def test_frames_and_features_of_another_run_are_named(pictured):
    edit("data/frames/pocus/frames.csv", lambda table: table.assign(frame=table["frame"] + 7))
    with pytest.raises(UserError, match=r"(?s)data/frames/pocus has no frame 1 of .*; run `dvc repro` to predict"):
        page()
    edit("reports/features/pocus/clips.csv", lambda table: table.replace({"pocus 3.mp4": "pocus 300.mp4"}))
    with pytest.raises(UserError, match="reports/features/pocus and the predictions have different clips"):
        page(worst_clips=0)


def test_marks_are_counted_and_those_of_wrong_clips_are_open(pictured):
    source = section(page(), "features")
    assert source.count("<svg") == 3
    clips = clip_lines("pocus").values()
    for name in CLASSES["pocus"]:
        assert f"{name} {sum(clip['label'] == name for clip in clips)}" in source
    assert "unlabelled 10" in source and "lusms 20" in source and "perplexity 5." in source
    svg = re.search("<svg.*?</svg>", source, re.DOTALL)[0]
    plot = svg[: svg.index("legend")] if "legend" in svg else svg
    marks = re.findall(r"<use [^>]*style=\"([^\"]*)\"", plot)
    assert len(marks) - len(CLASSES["pocus"]) == 40     # and those of the legend
    wrong = sum(clip["said"] != clip["label"] for clip in clips)
    assert sum("fill-opacity: 0" in style for style in marks) == wrong > 0


def test_sections_without_data_or_pictures_are_left_out(pictured):
    source = page(worst_clips=0)
    assert not images(source) and section(source, "grad_cam") is None
    edit("reports/grad_cam/pocus/maps.csv", lambda table: table[:0])
    np.save("reports/grad_cam/pocus/maps.npy", np.empty((0, 160, 160), np.uint8))
    for task in ("pocus", "pretrain"):
        features, clips = clip_features.read(f"reports/features/{task}")
        clip_features.write(f"reports/features/{task}", 0 * features, clips)
    source = page()
    assert section(source, "grad_cam") is None and section(source, "features") is None and "#grad_cam\"" not in source
    assert section(source, "patients")


def test_the_page_with_pictures_needs_nothing_beside_it_and_is_the_same_again(pictured):
    source = page()
    shown = images(source)
    assert len(shown) == 24 + 10 + 4        # worst clips, maps, pairs
    assert all(image["alt"] and image["src"].startswith("data:image/png;base64,") for image in shown)
    headings = [int(tag[1]) for tag, _ in Page(source).tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in zip(headings, headings[1:], strict=False))
    names = [attributes["id"] for _, attributes in Page(source).tags if "id" in attributes]
    assert len(names) == len(set(names))
    assert page() == source


@pytest.mark.parametrize(("clips", "used"), [(60, 12.0), (36, 12.0), (30, 10.0), (6, 2.0)])
def test_the_perplexity_falls_with_few_clips(clips, used, draw):
    places, perplexity = Map(12, 0).places(np.random.default_rng(0).normal(size=(clips, 5)))
    assert places.shape == (clips, 2) and np.isfinite(places).all() and perplexity == used


def test_clips_that_are_alike_stand_together():
    """Three directions in 20 dimensions; the nearest mark of each is of its own direction, whatever the length."""
    rng = np.random.default_rng(0)
    group = np.arange(45) % 3
    features = (np.eye(20)[group] + 0.05 * rng.normal(size=(45, 20))) * rng.uniform(1, 100, (45, 1))
    places = Map(8, 0).places(features)[0]
    distances = np.hypot(*(places[:, None] - places).T) + np.diag([math.inf] * 45)
    assert (group[distances.argmin(1)] == group).all()
    assert (Map(8, 0).places(features)[0] == places).all()


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"tsne": {"perplexity": 0.5}}, "report.tsne.perplexity is 0.5"),
    ({"tsne": {"perplexity": 5, "rate": 1}}, "report.tsne.rate is not a parameter"),
])  # fmt: skip
def test_settings_that_cannot_be_are_named(run, changes, sentence):  # noqa: F811
    with pytest.raises(UserError, match=sentence):
        report.main(**parameters(**changes))
