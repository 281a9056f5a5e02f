"""The comparison of two runs: paired intervals and McNemar's test against loops, and the command on two git revisions."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score
from test_scores import CLASSES, certain, predictions

from stages.lib.evaluation import comparison, intervals, scores
from stages.lib.params import UserError
from stages.lib.running.stage import run_tool
from stages.tools import compare


def counts(*tables):
    return [scores.outcome_counts(table, CLASSES) for table in tables]

ROOT = Path(__file__).parents[1]


def test_the_paired_interval_is_that_of_a_loop_over_resampled_patients():
    """The same patients are drawn for both tables, which share nothing but them."""
    first, second = (scores.clip_level(predictions(seed=0)) for _ in range(2))
    second[["p_covid", "p_pneumonia", "p_regular"]] = second[["p_regular", "p_covid", "p_pneumonia"]].to_numpy()
    low, high = intervals.paired_interval(*counts(first, second), samples=4000, confidence=0.9, seed=1)
    keys = first["patient"].where(first["patient"] != "", first["clip"])
    parts = [first.index[keys == key] for key in keys.unique()]
    rng, differences, label = np.random.default_rng(5), [], first["label"].to_numpy()
    guesses = [np.array(CLASSES)[table[[f"p_{name}" for name in CLASSES]].to_numpy().argmax(1)] for table in (first, second)]
    for _ in range(1500):
        rows = np.concatenate([parts[number] for number in rng.integers(len(parts), size=len(parts))])
        values = [balanced_accuracy_score(label[rows], guess[rows]) for guess in guesses]
        differences.append(values[1] - values[0])
    assert [low, high] == pytest.approx(np.quantile(differences, [0.05, 0.95]), abs=0.03)


def test_a_pair_is_told_apart_more_sharply_than_its_single_intervals():
    """Clips that both get right or wrong alike cancel: one clip in ten better for every patient is no noise."""
    labels = CLASSES * 30
    patients = [f"patient {number // 3}" for number in range(90)]
    wrong = [CLASSES[(CLASSES.index(label) + 1) % 3] for label in labels]
    both = list(enumerate(zip(labels, wrong, strict=True)))
    first = certain(labels, [other if n % 2 else label for n, (label, other) in both], patients)
    second = certain(labels, [other if n % 2 and n % 10 != 5 else label for n, (label, other) in both], patients)
    low, high = intervals.paired_interval(*counts(first, second), 2000, 0.95, 0)
    single = [intervals.interval(scores.outcome_counts(table, CLASSES), 0.95) for table in (first, second)]
    assert 0 < low < 0.1 < high and single[0][1] > single[1][0]


def test_a_table_against_itself_differs_by_nothing():
    table = scores.clip_level(predictions())
    assert intervals.paired_interval(*counts(table, table), 500, 0.95, 0) == (0, 0)
    assert comparison.mcnemar(table, table, CLASSES) == (0, 0, 1.0)


def test_runs_that_join_other_patients_are_not_paired():
    """The bootstrap would draw other patients for each of them; another copy_distance joins others in one group."""
    first = scores.clip_level(predictions(seed=0))
    first.insert(0, "group", first["patient"].where(first["patient"] != "", first["clip"]))
    names = sorted(first["group"].unique())[:2]
    second = first.assign(group=first["group"].replace(names[0], names[1]))
    with pytest.raises(UserError, match="predicted different clips"):
        comparison.compare("pocus", ("a", "b"), [first, second], 100, 0.95, 0)


def test_mcnemar_is_the_two_sided_sign_test_on_the_clips_that_differ():
    first = certain(["covid"] * 12, ["covid"] * 9 + ["regular"] * 3, [""] * 12)
    second = certain(["covid"] * 12, ["covid"] * 1 + ["regular"] * 8 + ["covid"] * 2 + ["regular"], [""] * 12)
    expected = 2 * sum(math.comb(10, k) for k in range(3)) / 2**10
    assert comparison.mcnemar(first, second, CLASSES) == (8, 2, pytest.approx(expected))


def test_other_clips_folds_or_classes_are_refused():
    table = scores.clip_level(predictions())
    others = [table.iloc[1:].reset_index(drop=True), table.assign(fold=table["fold"] + 1), table.drop(columns="p_covid")]
    for other in others:
        with pytest.raises(UserError, match="pocus: a and b predicted different clips, classes or folds"):
            compare.describe("pocus", ("a", "b"), [table, other], 100, 0.95, 0)


def test_runs_of_several_seeds_are_compared_by_their_means():
    """Each seed of a run that is another's shift: the mean of two seeds against one, over the same resamples."""
    frames = predictions(seed=0)
    shifted = frames.copy()
    shifted[["p_covid", "p_pneumonia", "p_regular"]] = frames[["p_regular", "p_covid", "p_pneumonia"]].to_numpy()
    one, two = (scores.clip_level(pd.concat([table.assign(seed=seed) for seed, table in enumerate(tables)]))
                for tables in ([frames], [frames, shifted]))
    values = [scores.scores(scores.clip_level(table), CLASSES)["balanced_accuracy"] for table in (frames, shifted)]
    said = compare.describe("pocus", ("a", "b"), [one, two], 500, 0.95, 0)
    assert f"{values[0]:.3f} (a), {np.mean(values):.3f} (b, SD {np.std(values, ddof=1):.3f} over 2 cross-validations)" in said
    low, high = intervals.paired_interval(*counts(one, two), 500, 0.95, 0)
    assert f"interval {low:+.3f} to {high:+.3f}" in said and "McNemar" not in said
    detectable = intervals.detectable_difference(*counts(one, two), 500, 0.95, 0)
    assert said.endswith(f"the smallest true difference that these patients show with 80 % power is {detectable:.3f}")
    assert intervals.paired_interval(*counts(two, two), 500, 0.95, 0) == (0, 0)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with two revisions of predictions: by chance, and right. Tests leave it as they find it."""
    folder = tmp_path_factory.mktemp("compare")

    def run(*command):
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)

    run("git", "init", "-q", "-b", "main")
    run("git", "config", "user.email", "test@example.org")
    run("git", "config", "user.name", "test")
    run(sys.executable, "-m", "dvc", "init", "-q")
    params, text = folder / "params.yaml", (
        "seed: 0\nfinetune: {tasks: [pocus]}\nreport: {bootstrap_samples: 1000, confidence: 0.95}\n"
        "tasks: {pocus: {}, heart: {}}\n")
    tables = folder / "reports/predictions"
    tables.mkdir(parents=True)
    for name, skill in (("chance", 0.0), ("skilled", 6.0)):
        table = predictions(seed=0, skill=skill)
        fixed = predictions(seed=0)[["clip", "patient", "fold", "frame", "label"]]
        table[fixed.columns] = fixed
        table.to_csv(tables / "pocus.csv", index=False)
        table.to_csv(tables / f"only_{name}.csv", index=False)
        params.write_text(text.replace("[pocus]", f"[only_{name}, pocus]"))
        run("git", "add", ".")
        run("git", "commit", "-qm", name)
        run("git", "tag", name)
    params.write_text(text.replace("[pocus]", "[heart]"))
    run("git", "commit", "-qam", "another task")
    run("git", "tag", "other")
    params.write_text(text)
    return folder


@pytest.fixture
def project(repository, monkeypatch):
    monkeypatch.chdir(repository)
    return repository


def ask(first, second, *names):
    """What the command does, without a start of Python."""
    run_tool(compare.main, first=first, second=second, names=list(names))


def test_the_command_compares_two_revisions(project, capsys):
    command = [sys.executable, "-m", "stages.tools.compare", "chance", "workspace"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": str(Path(sys.executable).parent)}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stderr
    table = scores.clip_level(pd.read_csv("reports/predictions/pocus.csv", keep_default_na=False))
    value = scores.scores(table, CLASSES)["balanced_accuracy"]
    assert f"{value:.3f} (workspace)" in answer.stdout and "workspace is better" in answer.stdout
    ask("skilled", "workspace", "pocus")
    assert "within noise" in capsys.readouterr().out


def test_the_tasks_are_those_of_both_runs_whatever_the_workspace_has(project, capsys):
    ask("chance", "skilled")
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines() if line[0] != " "] == ["pocus"]
    with pytest.raises(SystemExit) as stopped:
        ask("chance", "other")
    assert stopped.value.code == (
        "error: chance and other share no task: chance has only_chance, pocus, other has heart")


@pytest.mark.parametrize(("arguments", "sentence"), [
    (("nobody", "workspace"), "error: params.yaml cannot be read from nobody ("),
    (("skilled", "chance", "heart"), "error: reports/predictions/"),
    (("skilled", "chance", "hart"), "error: hart is no task; choose from pocus, heart, only_"),
])  # fmt: skip
def test_an_unknown_run_or_task_is_one_sentence(project, arguments, sentence):
    with pytest.raises(SystemExit) as stopped:
        ask(*arguments)
    assert stopped.value.code.startswith(sentence) and len(stopped.value.code.splitlines()) == 1
