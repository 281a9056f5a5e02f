"""The leaderboard: seeds merged, incomparable runs apart, bold only beyond noise, page and csv alike, real experiments."""

import itertools
import math
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_report import Page
from test_scores import CLASSES, predictions

from stages.lib.evaluation import comparison, intervals, scores
from stages.lib.params import UserError
from stages.tools import experiments, leaderboard

ROOT = Path(__file__).parents[1]
SETTINGS = {"samples": 400, "confidence": 0.95, "seed": 0}


def made(name, method="simclr", seed=0, value=0.7, code="1", state="done", tasks=("pocus",), numbers=(), **changes):
    """An experiment as revisions.experiments returns it; `changes` are parameters, their dots written as __."""
    flat = {"seed": seed, "collection": "raw", "extract_frames.sources": ["pocus"], "extract_frames.size_px": 64,
            "copy_distance.clips": 0.25, "pretrain.method": method, "pretrain.epochs": 3,
            f"methods.{method}.temperature": 0.5, "views.pipeline": "published", "views.semantic.noise": 0.1,
            "finetune.tasks": list(tasks), "finetune.init": "pretrained", "finetune.seeds": [0], "finetune.folds": 5,
            "segment.tasks": [], "segment.folds": 5, "tasks.pocus.classes": CLASSES, "tasks.pocus.subsets": [],
            "tasks.breast.classes": ["benign", "malignant"], "report.confidence": 0.95}
    flat |= {key.replace("__", "."): change for key, change in changes.items()}
    metrics = {task: {"balanced_accuracy": value, "balanced_accuracy_low": value - 0.1, "balanced_accuracy_high": value + 0.1,
                      "frame_accuracy": value + 0.01, "published_protocol_accuracy": value + 0.05} | dict(numbers)
               for task in tasks}
    lock = {"report": {"params": {"params.yaml": flat}, "deps": [{"path": "stages/lib/report", "md5": name}]},
            "finetune@pocus": {"deps": [{"path": "stages/lib/training", "md5": code}, {"path": "data/folds", "md5": name}]},
            "finetune@heart": {"deps": [{"path": "stages/lib/old.py", "md5": name}]}}
    if state != "done":
        metrics, lock = {}, {}
    return {"name": name, "revision": name, "state": state, "params": flat, "lock": lock,
            "metrics": metrics | ({"pretrain": {"held_out_loss": 1.0 + seed}} if metrics else {})}


def names(merged):
    return [[name for run in one.runs for name in run["names"]] for one in merged]


def test_experiments_that_differ_in_seeds_only_are_one_row():
    found = [made("a"), made("b", seed=1, value=0.8), made("c", method="uscl"), made("d", seed=2, value=0.9),
             made("e", pretrain__epochs=4), made("f", seed=1, value=0.5, finetune__trainable="head")]
    merged, others = experiments.configurations(found)
    assert names(merged) == [["a", "b", "d"], ["c"], ["e"], ["f"]] and not others
    first, second = merged[:2]
    assert first.mean("pocus", "balanced_accuracy") == pytest.approx(0.8)
    assert first.spread("pocus", "balanced_accuracy") == pytest.approx(0.1)
    assert first.mean("pretrain", "held_out_loss") == pytest.approx(2)
    assert math.isnan(second.spread("pocus", "balanced_accuracy"))
    assert experiments.differences(merged) == [
        "pretrain.epochs=3", "pretrain.epochs=3", "pretrain.epochs=4", "pretrain.epochs=3, finetune.trainable=head"]


def test_the_spread_is_that_of_all_cross_validations_together():
    """Two experiments of three and two fine-tuning seeds against the five values."""
    values = [[0.6, 0.65, 0.75], [0.8, 0.7]]
    found = []
    for number, own in enumerate(values):
        numbers = {"balanced_accuracy": statistics.mean(own), "balanced_accuracy_seed_sd": statistics.stdev(own)}
        found.append(made(str(number), seed=number, numbers=numbers, finetune__seeds=list(range(len(own)))))
    (one,), _ = experiments.configurations(found)
    assert one.trainings == [(0, 0, 0), (0, 1, 0), (0, 2, 0), (1, 1, 0), (1, 2, 0)]
    assert one.mean("pocus", "balanced_accuracy") == pytest.approx(statistics.mean(sum(values, [])))
    assert one.spread("pocus", "balanced_accuracy") == pytest.approx(statistics.stdev(sum(values, [])))


def test_a_result_that_is_listed_twice_counts_once():
    """Workspace and commit; one seed that an experiment of three holds, too. Same seeds with another result are two results."""
    found = [made("workspace"), made("main"), made("three", finetune__seeds=[0, 1, 2]), made("again", value=0.6, seed=5),
             made("other", value=0.5, seed=5)]
    (one,), _ = experiments.configurations(found)
    assert [sorted(run["names"]) for run in one.runs] == [["main", "three", "workspace"], ["again"], ["other"]]
    assert len(one.trainings) == 5


@pytest.mark.parametrize(("lists", "counted"), [
    ([[0, 1], [1, 2]], [[0, 1], [2]]), ([[2, 3], [0, 1, 2]], [[0, 1, 2], [3]]),
    ([[0, 1], [2, 3], [1, 2]], [[0, 1], [2, 3], []]),
])
def test_a_seed_of_two_lists_that_overlap_counts_once(lists, counted):
    (one,), _ = experiments.configurations([made(str(own), finetune__seeds=own) for own in lists])
    assert [[fine for _, fine, _ in run["trainings"]] for run in one.runs] == counted
    assert sorted(sum(names([one]), [])) == sorted(map(str, lists))         # no experiment goes unnamed
    assert one.mean("pocus", "balanced_accuracy") == pytest.approx(0.7)


def test_what_cannot_change_a_score_splits_no_row():
    same = [made("a"), made("b", seed=1, report__confidence=0.9), made("c", seed=2, views__semantic__noise=0.5),
            made("d", seed=3, segment__folds=9), made("e", seed=4, tasks__breast__classes=["x", "y"])]
    assert len(experiments.configurations(same)[0]) == 1
    random = [made(str(seed), method, seed, finetune__init="random", extract_frames__sources=sources)
              for seed, (method, sources) in enumerate([("simclr", ["pocus"]), ("uscl", ["pocus", "clust"])])]
    (one,), _ = experiments.configurations(random)
    assert one.start == "random" and one.trainings == [(0, 0, 0), (1, 1, 0)]


def test_random_weights_of_another_network_are_another_row():
    found = [made(arch, value=value, finetune__init="random", pretrain__arch=arch)
             for arch, value in (("resnet18", 0.6), ("resnet50", 0.8))]
    merged, _ = experiments.configurations(found)
    assert names(merged) == [["resnet18"], ["resnet50"]]
    assert experiments.differences(merged) == ["pretrain.arch=resnet18", "pretrain.arch=resnet50"]


def test_other_clips_of_the_source_of_a_task_are_another_row():
    """With random weights, too, where only the clips of the tasks count."""
    found = [made(name, seed=seed, finetune__init="random", tasks__pocus__source="blues") for seed, name in enumerate("ab")]
    for one in found:
        one["lock"]["extract_frames@blues"] = {"deps": [{"path": "data/raw/blues", "md5": one["name"]}]}
    assert names(experiments.configurations(found)[0]) == [["a"], ["b"]]


def test_other_code_is_another_row_and_is_named():
    merged, _ = experiments.configurations([made("a"), made("b", seed=1, code="2")])
    assert names(merged) == [["a"], ["b"]]
    assert experiments.differences(merged) == ["", "other code or clips than the first row: training"]


def test_runs_on_other_clips_or_folds_stand_under_headings_of_their_own():
    found = [made("a"), made("b", method="uscl", extract_frames__sources=["pocus", "clust"]), made("c", finetune__folds=10),
             made("d", collection="phantom"), made("e", extract_frames__size_px=224)]
    parts = experiments.same_clips(experiments.configurations(found)[0])
    assert [names(members) for _, members in parts] == [[["a"], ["b"]], [["c"]], [["d"]], [["e"]]]
    assert [title for title, _ in parts][1] == "collection=raw, extract_frames.size_px=64, finetune.folds=10"
    assert experiments.same_clips(experiments.configurations(found[:2])[0])[0][0] == ""


def test_a_task_with_other_classes_is_another_column():
    found = [made("a"), made("b", method="uscl", tasks=("pocus", "breast")),
             made("c", tasks__pocus__classes=["covid", "regular"])]
    columns = leaderboard.columns_of(experiments.configurations(found)[0])
    assert {label: names(members) for label, (_, members) in columns.items()} == {
        "pocus (covid, pneumonia, regular; all)": [["a"], ["b"]], "breast": [["b"]], "pocus (covid, regular; all)": [["c"]]}


def skilled(skill, seed=0):
    """Clip-level predictions of the same clips, the better the higher `skill`."""
    table = scores.clip_level(predictions(seed=0))
    logits = np.random.default_rng(seed).normal(size=(len(table), 3)) + skill * (table["label"].to_numpy()[:, None] == CLASSES)
    table[[f"p_{name}" for name in CLASSES]] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return table


def test_a_best_run_without_predictions_is_compared_with_none():
    found = comparison.against_best([0.9, 0.8], ["its predictions are not in the cache", skilled(6.0)], **SETTINGS)
    assert [one["verdict"] for one in found] == ["highest; beyond noise above 0 of 1 others",
                                                 "not tested: its predictions are not in the cache"]


def test_the_best_is_told_from_the_others_as_a_loop_tells_it():
    """Every other run against the best; resampled here patient by patient, 5 % of the resamples have a wider pair."""
    tables = [skilled(0.0, 1), skilled(6.0, 2), skilled(5.0, 3), skilled(1.0, 4)]
    values = [comparison.balanced_accuracies(table).mean() for table in tables]
    found = comparison.against_best(values, tables, samples=4000, confidence=0.95, seed=1)
    best = int(np.argmax(values))
    keys = tables[0]["patient"].where(tables[0]["patient"] != "", tables[0]["clip"])
    parts, rng = [tables[0].index[keys == key] for key in keys.unique()], np.random.default_rng(5)
    label, resampled = tables[0]["label"].to_numpy(), []
    rights = [scores.predicted(table, CLASSES) == label for table in tables]
    for _ in range(1500):
        rows = np.concatenate([parts[number] for number in rng.integers(len(parts), size=len(parts))])
        resampled.append([statistics.mean(right[rows][label[rows] == name].mean() for name in set(label[rows]))
                          for right in rights])
    resampled, furthest, deviation = np.array(resampled), np.zeros(1500), {}
    for pair in itertools.combinations(range(4), 2):
        apart = resampled[:, pair[0]] - resampled[:, pair[1]]
        deviation[frozenset(pair)] = apart.std()
        furthest = np.maximum(furthest, abs(apart - apart.mean()) / (apart.std() or 1))
    reach = np.quantile(furthest, 0.95)
    assert 2.1 < reach < 2.7        # Tukey's for four runs is 2.57, for two 1.96; two of these four are equal
    freedom = len(parts) - len(CLASSES)
    reach = stats.t.ppf(stats.norm.cdf(reach), freedom) * math.sqrt(len(parts) / freedom)       # as the patients are few
    ends = [[values[best] - value + sign * reach * deviation.get(frozenset({best, number}), 0)
             for number, value in enumerate(values)] for sign in (-1, 1)]
    for number, one in enumerate(found):
        if number != best:
            assert [one["low"], one["high"]] == pytest.approx([end[number] for end in ends], abs=0.03)
            assert one["difference"] == pytest.approx(values[best] - values[number])
            assert one["verdict"] == ("worse than the best" if one["low"] > 0 else "within noise of the best")
    verdicts = [one["verdict"] for one in found]
    assert verdicts[0] == verdicts[3] == "worse than the best" and verdicts[2 if best == 1 else 1] == "within noise of the best"
    assert not any(one["best"] for one in found) and verdicts[best] == "highest; beyond noise above 2 of 3 others"
    kept = [0, best, 3]
    assert [one["best"] for one in comparison.against_best([values[n] for n in kept], [tables[n] for n in kept], **SETTINGS)
            ] == [False, True, False]


def test_more_comparisons_widen_every_interval():
    tables = [skilled(2.0, seed) for seed in range(6)]
    values = [comparison.balanced_accuracies(table).mean() for table in tables]
    worst, best = int(np.argmin(values)), int(np.argmax(values))
    two = comparison.against_best([values[best], values[worst]], [tables[best], tables[worst]], **SETTINGS)[1]
    all_six = comparison.against_best(values, tables, **SETTINGS)[worst]
    assert all_six["low"] < two["low"] and all_six["high"] > two["high"]


@pytest.mark.parametrize("other, reason", [
    ("the predictions of b are not in the cache", "not tested: the predictions of b are not in the cache"),
    (skilled(0.0).assign(fold=lambda table: table["fold"] + 1), "not tested: other clips or folds than the best"),
    (skilled(0.0)[1:], "not tested: other clips or folds than the best"),
])
def test_what_cannot_be_tested_is_said_and_nothing_is_bold(other, reason):
    found = comparison.against_best([0.9, 0.1, 0.2], [skilled(6.0), other, skilled(0.0, 3)], **SETTINGS)
    assert found[1]["verdict"] == reason and math.isnan(found[1]["low"]) and found[2]["verdict"] == "worse than the best"
    assert not any(one["best"] for one in found)


@pytest.fixture
def board(tmp_path, monkeypatch):
    """The leaderboard of made-up experiments: (page, csv) of what it is given, with their predictions."""
    def write(found, tables):
        for each in found:
            for task in set(each["metrics"]) - {"pretrain"}:
                if each["name"] in tables:
                    each["metrics"][task]["balanced_accuracy"] = comparison.balanced_accuracies(tables[each["name"]]).mean()

        def had(task, revision):
            if revision not in tables:
                raise UserError("not there")
            return tables[revision]

        monkeypatch.setattr(leaderboard, "experiments", lambda revisions, all_commits: found)
        monkeypatch.setattr(leaderboard, "predictions", had)
        leaderboard.main([], False, tmp_path, seed=0, report={"bootstrap_samples": 400, "confidence": 0.95})
        page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
        Page(re.sub("<script>.*</script>", "", page, flags=re.DOTALL))
        return page, pd.read_csv(tmp_path / "leaderboard.csv")
    return write


def body(page):
    """The rows of the first table: lists of texts, markup left out."""
    table = page[page.index("<tbody>") : page.index("</tbody>")]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in table.split("<tr>")[1:]]
    return [[re.sub(r"<[^>]+>", "|", cell) for cell in row] for row in cells], table


def test_without_any_result_there_is_a_page_only_if_experiments_wait_or_failed(board, tmp_path):
    bare = [made(name) | {"metrics": {}} for name in ("workspace", "main")]
    with pytest.raises(UserError, match="there is no experiment and no result; run `dvc repro` first"):
        board(bare, {})
    assert not list(tmp_path.iterdir())
    _, csv = board([*bare, made("waits", state="queued")], {})
    assert list(csv["state"]) == ["no scores", "no scores", "queued"]


def test_page_and_csv_hold_the_same_numbers(board):
    found = [made("workspace"), made("uscl", method="uscl"), made("uscl-1", method="uscl", seed=1), made("random",
             finetune__init="random"), made("fails", method="byol", state="failed"), made("waits", seed=7, state="queued")]
    tables = {"workspace": skilled(1.0, 1), "uscl": skilled(6.0, 2), "uscl-1": skilled(5.0, 3), "random": skilled(0.0, 4)}
    page, csv = board(found, tables)
    done, rest = csv[csv["state"] == "done"], csv[csv["state"] != "done"]
    rows, table = body(page)
    assert [row[0] for row in rows] == list(done.sort_values("balanced_accuracy", ascending=False)["initial_weights"])
    for row in rows:
        line = done.set_index("initial_weights").loc[row[0]]
        assert row[2] == f"{line['n']:.0f}|seed {line['seeds']}|"
        spread = f" ± {100 * line['sd']:.1f}" if line["n"] > 1 else ""
        shown = row[3].replace("|", "") if line["significant"] else row[3].rstrip("|").replace("|", "")
        assert shown == f"{100 * line['balanced_accuracy']:.1f}{spread}{100 * line['low']:.1f}–{100 * line['high']:.1f}"
        assert row[4:6] == [f"{100 * line[name]:.1f}" for name in ("frame_accuracy", "published_protocol_accuracy")]
        assert len(row) == 6
    beside = page[page.index("differences to the highest") :]
    for row in body(beside)[0]:
        line = done.set_index("initial_weights").loc[row[0]]
        tested = line["verdict"] != "highest; beyond noise above 2 of 2 others"
        assert row[4] == (f"{100 * line['detectable_difference']:.1f}" if tested else "–") and row[5] == line["verdict"]
    assert re.findall("<strong>(.*?)</strong>", table) == [f"{100 * done['balanced_accuracy'].max():.1f}"]
    assert done.set_index("initial_weights")["significant"].to_dict() == {"simclr": False, "uscl": True, "random": False}
    assert rest[["experiments", "state"]].values.tolist() == [["fails", "failed"], ["waits", "queued"]]
    assert rest["balanced_accuracy"].isna().all() and "seed=7" in rest["what_differs"].iloc[1]
    for name, state in (("fails", "failed"), ("waits", "queued")):
        assert re.search(f'<th scope="row">{name}</th><td class="text">{state}</td>', page)
    assert 'table class="sortable"' in page and not re.search(r'(src|href)="', page)


def test_the_interval_of_merged_seeds_is_the_bootstrap_of_their_mean(board):
    tables = {"a": skilled(2.0, 1), "b": skilled(2.0, 2)}
    _, csv = board([made("a"), made("b", seed=1)], tables)
    both = pd.concat([tables["a"].assign(seed=0), tables["b"].assign(seed=1)])
    expected = intervals.interval(scores.outcome_counts(both, CLASSES), SETTINGS["confidence"])
    assert csv[["low", "high"]].values[0].tolist() == pytest.approx(expected, abs=5.1e-5)


def test_overlapping_lists_of_seeds_score_as_one_list_of_all_seeds(board):
    """Seeds 0, 1 and 1, 2, against the mean, SD and interval of the three."""
    each = {seed: skilled(2.0, seed + 1).assign(seed=seed) for seed in range(3)}
    lists = {"a": [0, 1], "b": [1, 2]}
    tables = {name: pd.concat([each[seed] for seed in own], ignore_index=True) for name, own in lists.items()}
    _, csv = board([made(name, finetune__seeds=own) for name, own in lists.items()], tables)
    values = [comparison.balanced_accuracies(table).mean() for table in each.values()]
    expected = intervals.interval(scores.outcome_counts(pd.concat(each.values()), CLASSES), SETTINGS["confidence"])
    assert csv["n"].tolist() == [3] and len(set(values)) == 3
    found = csv.loc[0, ["balanced_accuracy", "sd", "low", "high"]].tolist()
    assert found == pytest.approx([statistics.mean(values), statistics.stdev(values), *expected], abs=5.1e-5)


def test_a_given_division_is_one_cross_validation_whatever_the_fold_seeds(board):
    found = [made(name, method=name, finetune__fold_seeds=[0, 1]) for name in ("simclr", "uscl")]
    page, csv = board(found, {"simclr": skilled(1.0, 1), "uscl": skilled(2.0, 2)})
    assert csv["n"].tolist() == [1, 1] and csv["sd"].isna().all() and body(page)[0][0][2] == "1|seed 0|"


def test_predictions_that_are_gone_or_stale_leave_the_scores_and_no_verdict(board):
    tables = {"a": skilled(6.0, 1), "c": skilled(0.0, 2)}
    found = [made("a"), made("b", method="uscl", value=0.3), made("c", method="byol")]
    page, csv = board(found, tables)
    csv = csv.set_index("experiments")
    assert csv.loc["b", "verdict"] == "not tested: the predictions of b are not in the cache"
    assert csv.loc["b", ["balanced_accuracy", "low", "high"]].tolist() == pytest.approx([0.3, 0.2, 0.4])
    assert csv.loc["c", "verdict"] == "worse than the best" and not csv["significant"].any()
    found[0]["metrics"]["pocus"]["balanced_accuracy"] -= 0.01
    one = experiments.configurations([found[0]])[0][0]
    assert leaderboard.pooled("pocus", one) == "the predictions of a do not match its metrics"


def test_several_parts_are_told_apart_on_the_page(board):
    page, csv = board([made("a"), made("b", finetune__folds=10)], {"a": skilled(1.0), "b": skilled(0.0)})
    assert csv["part"].tolist() == [1, 2] and csv["scored_on"].tolist() == ["finetune.folds=5", "finetune.folds=10"]
    assert "2. Scored with finetune.folds=10" in page and "<tbody" in page
    assert "do not compare numbers under different headings" in page
    assert (csv["verdict"] == "the only one").all() and not csv["significant"].any()


MAKE = """import shutil, yaml
params = yaml.safe_load(open("params.yaml"))
shutil.copytree(f"chosen/{params['finetune']['trainable']}", "reports", dirs_exist_ok=True)
"""
STAGES = """stages:
  report:
    cmd: python make.py && python -m stages.tools.compare main workspace > compared.txt
    deps: [make.py, chosen]
    params: [seed, collection, pretrain, finetune]
    outs: [reports/predictions, compared.txt]
    metrics: [reports/metrics.json: {cache: false}]
"""
PARAMETERS = """seed: 0
collection: raw
pretrain: {method: simclr}
finetune: {tasks: [pocus], init: pretrained, trainable: head, seeds: [0]}
report: {bootstrap_samples: 500, confidence: 0.95}
tasks: {pocus: {classes: [covid, regular]}}
"""


@pytest.fixture
def project(tmp_path):
    """A repository whose only stage copies predictions: the parameter says of which skill."""
    def run(*command, code=0):
        environment = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path),
                       "DVC_SITE_CACHE_DIR": str(tmp_path / ".dvc/tmp/site"), "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    run("git", "init", "-q", "-b", "main")
    run("git", "config", "user.email", "test@example.org")
    run("git", "config", "user.name", "test")
    run("dvc", "init", "-q")
    for name, skill in (("head", 0.0), ("all", 6.0)):
        folder = tmp_path / "chosen" / name
        (folder / "predictions").mkdir(parents=True)
        table = skilled(skill).assign(seed=0)
        table.to_csv(folder / "predictions/pocus.csv", index=False)
        value = comparison.balanced_accuracies(table).mean()
        (folder / "metrics.json").write_text(f'{{"pocus": {{"balanced_accuracy": {value}}}}}')
    for name, text in (("make.py", MAKE), ("dvc.yaml", STAGES.replace(" && python -m stages.tools.compare main workspace", "")),
                       ("params.yaml", PARAMETERS), (".gitignore", "/reports/predictions\n/compared.txt\n")):
        (tmp_path / name).write_text(text)
    run("dvc", "repro", "-q")
    run("git", "add", ".")
    run("git", "commit", "-qm", "start")
    return tmp_path, run


@pytest.mark.slow
def test_real_experiments_of_two_commits_a_queue_and_a_copy(project):
    """An experiment in a copy (--temp) reads a branch of the repository that it was copied from; one that waits is listed, and
    one of an older commit; an edited params.yaml changes no row.
    """
    folder, run = project
    command = (sys.executable, "-m", "stages.tools.leaderboard")
    run("dvc", "exp", "run", "-q", "-S", "finetune.trainable=all", "-n", "old")
    run("git", "checkout", "-q", ".")
    (folder / "dvc.yaml").write_text(STAGES)
    run("git", "commit", "-qam", "compare")
    run("dvc", "exp", "run", "-q", "--temp", "-S", "finetune.trainable=all", "-S", "seed=3", "-n", "copy")
    run("dvc", "exp", "run", "-q", "--queue", "-S", "seed=9", "-n", "waits")
    (folder / "params.yaml").write_text(PARAMETERS.replace("simclr", "uscl"))
    said = run(*command)
    assert "written to reports/leaderboard.html and reports/leaderboard.csv" in said
    csv = pd.read_csv(folder / "reports/leaderboard.csv")
    lines = csv[csv["state"] == "done"].set_index("what_differs")
    assert set(csv["initial_weights"].dropna()) == {"simclr"}
    assert set(lines.loc["finetune.trainable=all", "experiments"].split(", ")) == {"old", "copy"}
    assert lines.loc["finetune.trainable=all", "n"] == 2 and lines.loc["finetune.trainable=all", "significant"]
    assert csv.loc[csv["experiments"] == "waits", ["state", "what_differs"]].values.tolist() == [["queued", "seed=9"]]
    assert "copy" not in run(*command, "HEAD~1", "--out", "elsewhere").join(open(folder / "elsewhere/leaderboard.csv"))
    copied = run(sys.executable, "-c", "from stages.lib.revisions import read; print(read('compared.txt', 'copy'))")
    assert "workspace is better" in copied
    assert run(*command, "nobody", code=1).startswith("error: the experiments cannot be listed")
    assert run(*command, "--out", "params.yaml", code=1) == "error: --out params.yaml is a file; name a folder\n"


def test_outside_a_project_one_sentence_says_so(tmp_path):
    done = subprocess.run([sys.executable, "-m", "stages.tools.leaderboard"], cwd=tmp_path, capture_output=True, text=True,
                          env={"PYTHONPATH": str(ROOT), "PATH": str(Path(sys.executable).parent)})
    assert done.returncode == 1 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
