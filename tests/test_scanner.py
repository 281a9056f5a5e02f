"""The section "How much of this is the scanner?": floors and outside tests against scikit-learn on the same files."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from test_report import CLASSES, FINETUNE, NASTY, Page, chances, edit, parameters
from test_report import run as run  # the fixture

from stages import report
from stages.lib.evaluation.floors import NAMES
from stages.lib.evaluation.folds import GIVEN
from stages.lib.params import UserError


def made(**changes) -> tuple[str, dict]:
    """The source of the section, its whitespace joined, and the scores that the report writes."""
    report.main(**parameters(**changes))
    page = Path("reports/report.html").read_text(encoding="utf-8")
    Page(page)
    found = re.search('<section id="scanner".*?</section>', page, re.DOTALL)[0]
    return re.sub(r"\s+", " ", found), json.loads(Path("reports/scores.json").read_text())


def balanced_accuracy(table: pd.DataFrame, classes: list[str]) -> float:
    guess = np.array(classes)[table[[f"p_{name}" for name in classes]].to_numpy().argmax(1)]
    return metrics.balanced_accuracy_score(table["label"], guess)


def test_the_floors_stand_beside_the_score_the_highest_first(run):
    section, scores = made()
    for task, classes in CLASSES.items():
        table = pd.read_csv(f"reports/floors/{task}.csv")
        expected = {name: balanced_accuracy(table[table["floor"] == name], classes) for name in NAMES}
        assert {name: scores[task][name] for name in NAMES} == pytest.approx(expected, abs=5.1e-5)
        highest = max(expected.values())
        assert scores[task]["highest_floor"] == pytest.approx(highest, abs=5.1e-5)
        above = scores[task]["balanced_accuracy"] - highest
        assert scores[task]["above_floor"] == pytest.approx(above, abs=1.1e-4)
        part = section[section.index(f"<h3>{task}</h3>") :]
        body = part[part.index("<tbody") : part.index("</tbody>")]
        detectable = 100 * scores[task]["above_floor_detectable"]
        said = re.search(r"smallest true difference that .*? 80&nbsp;% power is (\d+\.\d) points", part)
        assert float(said[1]) == pytest.approx(detectable, abs=0.051) and detectable > 0
        values = [float(value) for value in re.findall(r"<td[^>]*>(\d+\.\d)</td>", body)]
        assert values[0] == pytest.approx(100 * scores[task]["balanced_accuracy"], abs=0.051)
        assert values[1:] == pytest.approx(sorted((100 * value for value in expected.values()), reverse=True), abs=0.051)
        widths = [float(width) for width in re.findall(r"--at:(\d+\.\d)%", body)]
        assert widths == values


def test_the_page_says_whether_the_score_is_above_the_floor_by_more_than_noise(run):
    """A perfect floor, then floors that always name the first class beside perfect predictions."""
    classes = CLASSES["pocus"]

    def certain(table, right):
        label = table["label"] if right else classes[0]
        return table.assign(**{f"p_{name}": (label == name) * 1.0 for name in classes})

    edit("reports/floors/pocus.csv", lambda table: certain(table, True))
    section, _ = made(finetune=FINETUNE | {"tasks": ["pocus"]})
    assert "The score is not above the floor by more than noise" in section
    cards = Path("reports/report.html").read_text().partition("</header>")[0]
    assert "Highest floor 100.0" in cards and "the score is not above it by more than noise" in cards
    edit("reports/floors/pocus.csv", lambda table: certain(table, False))
    edit("reports/predictions/pocus.csv", lambda table: certain(table, True))
    section, scores = made(finetune=FINETUNE | {"tasks": ["pocus"]})
    assert "The score is above the floor by more than noise." in section and "not above" not in section
    assert scores["pocus"]["above_floor"] == pytest.approx(2 / 3, abs=1e-4)
    assert "(acquisition): +66.7 points" in section and "+66.7 to +66.7" in section
    assert "not above" not in Path("reports/report.html").read_text().partition("</header>")[0]


def test_outside_tests_are_scored_by_seed_and_their_copies_are_counted(run):
    """Two seeds, a class that the other source does not have, a clip left out as a copy, another without a class."""
    classes, there = CLASSES["pocus"], ["covid", "regular"]
    rng = np.random.default_rng(7)
    clips = pd.DataFrame({"test": "pocus_on_covid_blues_pcr", "clip": [NASTY, *(f"{number}.mp4" for number in range(1, 20))]})
    clips = clips.assign(patient=[f"p{number % 8}" for number in range(20)], label=there * 10, copy_of="", left_out="")
    frames = clips.loc[clips.index.repeat(2), ["test", "clip", "patient", "label"]].assign(frame=[0, 1] * 20)
    frames = frames.assign(group=frames["patient"])
    seeds = [chances(frames, there, rng).assign(seed=seed, p_pneumonia=0.0) for seed in (0, 1)]
    pd.concat(seeds).to_csv("reports/external/pocus/predictions.csv", index=False)
    more = clips[:2].assign(clip=["copy.mp4", "odd.mp4"], left_out=["looks like a clip of the task", "no class"],
                            copy_of=["pocus/a.mp4 (distance 0.02)", ""])
    pd.concat([clips, more]).to_csv("reports/external/pocus/clips.csv", index=False)
    outside = {"source": "covid_blues", "target": "pcr", "classes": {"covid": ["1"], "regular": ["0"]}}
    tasks = parameters()["tasks"] | {"pocus": {"classes": classes, "external": [outside]}}
    section, scores = made(tasks=tasks)
    each = []
    for table in seeds:
        means = table.groupby(["clip", "label"], as_index=False)[["p_covid", "p_regular"]].mean()
        each.append((balanced_accuracy(means, there), metrics.roc_auc_score(means["label"] == "covid", means["p_covid"])))
    numbers = scores["pocus_on_covid_blues_pcr"]
    assert [numbers["balanced_accuracy"], numbers["auroc"]] == pytest.approx(np.mean(each, axis=0), abs=5.1e-5)
    assert numbers["balanced_accuracy_low"] < numbers["balanced_accuracy"] < numbers["balanced_accuracy_high"]
    assert (numbers["clips"], numbers["patients"]) == (20, 8)
    row = re.search(r'aria-label="Outside tests".*?<tbody>(.*?)</tbody>', section)[1]
    cells = [html.unescape(cell).partition(" ± ")[0] for cell in re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row)]
    assert cells[:4] == ["pocus", "covid_blues, pcr", "covid, regular", f"{100 * numbers['balanced_accuracy']:.1f}"]
    assert cells[5:] == ["50.0", f"{numbers['auroc']:.3f}", "20", "8", "1"]
    Path("reports/external/pocus/clips.csv").unlink()
    with pytest.raises(UserError, match="external/pocus/clips.csv is missing; run `dvc repro -f finetune@pocus`"):
        report.main(**parameters(tasks=tasks))


def test_without_outside_tests_the_page_has_no_such_table(run):
    assert "Outside tests" not in made()[0]


def test_the_page_says_whose_folds_it_shows_of_several_divisions(run):
    for name in ("predictions", "finetune"):
        edit(f"reports/{name}/pocus.csv", lambda table: pd.concat([table, table.assign(division=1)]))
    report.main(**parameters(finetune=FINETUNE | {"fold_seeds": [0, 1]}))
    page = Path("reports/report.html").read_text(encoding="utf-8")
    assert "Mean ± SD over 2 divisions into folds." in page and "The fold is that of the first division." in page
    assert page.count("Folds of the first division.") == 1                                  # gallbladder has one


def test_the_page_says_where_the_clip_table_gave_the_folds(run):
    assert "folds are those that its clip table gives" not in made()[0]
    edit("reports/predictions/pocus.csv", lambda table: table.assign(division=GIVEN))
    for task in CLASSES:
        edit(f"data/folds/{task}.csv", lambda table: table.assign(copy_of="b.mp4 (distance 0.10)"))
    report.main(**parameters(finetune=FINETUNE | {"fold_seeds": [0, 1]}))
    page, *cards = (Path(path).read_text(encoding="utf-8") for path in report.PAGES)
    assert page.count("Its folds are those that its clip table gives, not 5 folds by patient.") == 1
    assert page.count("there is only one division, whatever the fold seeds") == 1           # for the other task
    for text in (page, *cards):
        assert "5 folds by patient (pocus: the folds that the clip table gives)" in text and "2 divisions" not in text
    assert page.count("are in one fold, those with") == page.count("stay where the clip table puts them, those with") == 1
    assert "on any clip of the same patient" not in page and "unless the clip table puts clips of the patient" in page
    report.main(**parameters(finetune=FINETUNE | {"tasks": ["pocus"]}))
    for path in report.PAGES:
        text = Path(path).read_text(encoding="utf-8")
        assert "the folds that the clip table gives" in text and "in 5 folds" not in text
