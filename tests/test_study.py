"""The study of pretraining: no method sees a task's source, and rows are compared with the better random row, paired."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from stages.lib.clips.tasks import read_task
from stages.lib.evaluation import intervals, scores
from tests.benchmarks import study

CLASSES = ["no", "yes"]


def predictions(right: float, fraction: float, seed: int, runs=((10, 0), (11, 0))) -> pd.DataFrame:
    """80 patients of one clip each, of which a share `right` is predicted rightly, in each run."""
    rng, rows = np.random.default_rng(seed), []
    for division, run_seed in runs:
        for number in range(80):
            label = CLASSES[number % 2]
            p = 0.9 if (rng.random() < right) == (label == "yes") else 0.1
            rows.append({"fraction": fraction, "division": division, "seed": run_seed, "fold": number % 5, "label": label,
                         "p_no": 1 - p, "p_yes": p} | dict.fromkeys(("clip", "patient", "group"), f"{number:02}"))
    return pd.DataFrame(rows)


def write(folder, rows: dict[str, pd.DataFrame]) -> None:
    folder.mkdir(parents=True)
    for name, table in rows.items():
        table.to_csv(folder / f"{name}.csv", index=False)


@pytest.mark.parametrize("name", study.SETS)
def test_no_method_sees_the_source_of_a_task(name):
    sources, tasks = study.SETS[name]
    evaluated = {read_task(task.removesuffix("_beams"), study.PARAMS["tasks"]).source for task in tasks}
    assert evaluated and not evaluated & set(sources)
    assert {label.split("/")[0] for labels in study.CLASSES[name].values() for label in labels} <= set(sources)


def test_settings_are_those_of_params_but_for_what_the_study_says():
    assert study.block_of("simclr_default") == study.PARAMS["methods"]["simclr"]
    block = study.block_of("uscl")
    assert block["views"]["crop_scale"] == study.VIEWS["crop_scale"]
    assert block["mixing_alpha"] == study.PARAMS["methods"]["uscl"]["mixing_alpha"]
    assert block["label_weight"] == study.PARAMS["methods"]["uscl"]["label_weight"] > 0       # there are labels here


def test_a_row_is_compared_with_the_better_random_row_in_the_runs_that_both_have(tmp_path):
    """Of the random rows the better one, without the seed that the method does not have; corrected for two methods."""
    both = ((10, 0), (11, 0), (10, 1))
    rows = {"random net 0": predictions(0.6, 1.0, 1, both), "random_uncalibrated net 0": predictions(0.7, 1.0, 2, both),
            "simclr net 0": predictions(0.9, 1.0, 3), "uscl net 0": predictions(0.65, 1.0, 4)}
    write(tmp_path / "frozen/made", rows)
    lines = study.table(tmp_path).set_index("row")

    better = rows["random_uncalibrated net 0"].query("seed == 0")
    counts = [scores.outcome_counts(part, CLASSES) for part in (better, rows["simclr net 0"])]
    low, high = intervals.paired_interval(*counts, study.SAMPLES, 1 - 0.05 / 2, 0)
    expected = [scores.balanced_accuracies(part, CLASSES).mean() for part in (better, rows["simclr net 0"])]
    assert lines.loc["simclr net", "difference"] == pytest.approx(expected[1] - expected[0])
    assert tuple(lines.loc["simclr net", ["low", "high"]]) == pytest.approx((low, high))
    assert lines.loc["simclr net", "low"] > 0 > lines.loc["uscl net", "low"]
    assert np.isnan(lines.loc["random net", "difference"])


def test_a_method_that_goes_on_from_imagenet_is_compared_with_imagenet(tmp_path):
    rows = {"random net 0": predictions(0.5, 1.0, 1), "imagenet net 0": predictions(0.7, 1.0, 2),
            "simclr_continued net 0": predictions(0.9, 1.0, 3), "imagenet other 0": predictions(0.6, 1.0, 4)}
    write(tmp_path / "frozen/made", rows)
    lines = study.table(tmp_path).set_index("row")
    accuracy = {name: scores.balanced_accuracies(part, CLASSES).mean() for name, part in rows.items()}
    assert lines.loc["simclr_continued net", "difference"] == pytest.approx(
        accuracy["simclr_continued net 0"] - accuracy["imagenet net 0"])
    assert lines.loc["imagenet net", "difference"] == pytest.approx(accuracy["imagenet net 0"] - accuracy["random net 0"])
    assert np.isnan(lines.loc["imagenet other", "difference"])          # no random row of its network


def test_a_method_that_goes_on_from_imagenet_has_the_settings_of_params_and_the_constants_of_these_weights():
    block, default = study.block_of("simclr_continued"), study.PARAMS["methods"]["simclr"]
    assert block == default | {"views": default["views"] | {"mean": 0.449, "std": 0.226}}
    assert study.network_of("simclr_continued", "resnet18") == study.network_of("imagenet", "resnet18") == "mobilenet_v2"
    assert study.network_of("simclr", "resnet18") == study.network_of("random", "resnet18") == "resnet18"


def test_seeds_are_joined_and_fractions_stay_apart(tmp_path):
    for seed in (0, 1):
        parts = [predictions(0.5 + fraction / 2, fraction, seed, ((10, seed), (11, seed))) for fraction in (0.25, 1.0)]
        (tmp_path / "frozen/made").mkdir(parents=True, exist_ok=True)
        pd.concat(parts).to_csv(tmp_path / f"frozen/made/random net {seed}.csv", index=False)
    lines = study.table(tmp_path)
    assert lines["fraction"].tolist() == [0.25, 1.0] and (lines["runs"] == 4).all()
    assert lines["accuracy"].tolist() == pytest.approx([0.625, 1.0], abs=0.05)
    study.picture(lines, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_a_killed_fine_tuning_goes_on_in_another_process(tmp_path, monkeypatch):
    """The key of its state is the same whenever it is made, and another one for other settings."""
    keys = []
    monkeypatch.setattr(study, "list_trainings", lambda *_: [])
    monkeypatch.setattr(study, "cross_validate", lambda *given: keys.append(given[4].key) or ([], None, None))
    monkeypatch.setattr(study, "table_of", lambda *_: None)
    monkeypatch.setattr(study.scores, "clip_level", lambda _: pd.DataFrame())
    task = SimpleNamespace(name="breast", classes=CLASSES)
    for arch, division in (("resnet18", 10), ("resnet18", 10), ("shufflenet_v2_x0_5", 10), ("resnet18", 11)):
        study.fine_tune((task, None, None), arch, "random", 0, division, 0.25, tmp_path / "state")
    assert keys[0] == keys[1] and len(set(keys)) == 3


@pytest.mark.parametrize(("words", "sentence"), [
    (["--methods", "simclr", "--fine-tune", "ivpp"], "--fine-tune names ivpp"),     # not from random weights under its name
    (["--methods", "simclr_continued"], "--imagenet"),
    (["--methods", "simclr", "--fine-tune", "imagenet"], "--imagenet"),
])  # fmt: skip
def test_a_row_without_weights_to_start_from_is_refused(capsys, words, sentence):
    with pytest.raises(SystemExit):
        study.arguments(["--out", "study", *words])
    assert sentence in capsys.readouterr().err
