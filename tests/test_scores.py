"""Scores against loops, closed forms and scikit-learn's own functions."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from stages.lib.clips.tasks import groups
from stages.lib.evaluation import intervals, scores
from stages.lib.evaluation.roc import roc

CLASSES = ["covid", "pneumonia", "regular"]


def predictions(seed: int = 0, clips: int = 40, patients: int = 15, skill: float = 1.0) -> pd.DataFrame:
    """Random predictions of 2 to 6 frames per clip; every fifth clip has no known patient."""
    rng = np.random.default_rng(seed)
    lines = []
    for clip in range(clips):
        label = int(rng.integers(len(CLASSES)))
        patient = "" if clip % 5 == 0 else f"patient {rng.integers(patients)}"
        for frame in range(rng.integers(2, 7)):
            logits = rng.normal(size=3) + skill * (np.arange(3) == label)
            chances = np.exp(logits) / np.exp(logits).sum()
            lines.append((f"clip {clip}.mp4", patient, clip % 5, frame, CLASSES[label], *chances))
    return pd.DataFrame(
        lines, columns=["clip", "patient", "fold", "frame", "label", *(f"p_{name}" for name in CLASSES)]
    )


def certain(labels: list[str], guesses: list[str], patients: list[str]) -> pd.DataFrame:
    """A clip per label, each with one frame and all probability on the guess."""
    table = pd.DataFrame({"clip": [f"{n}.mp4" for n in range(len(labels))], "patient": patients, "label": labels})
    return table.assign(fold=0, frame=0, **{f"p_{name}": [float(g == name) for g in guesses] for name in CLASSES})


def test_clip_level_is_the_mean_over_the_frames():
    frames = predictions()
    clips = scores.clip_level(frames)
    assert len(clips) == frames["clip"].nunique()
    for _, clip in clips.iterrows():
        own = [line for _, line in frames.iterrows() if line["clip"] == clip["clip"]]
        assert clip["p_covid"] == pytest.approx(sum(line["p_covid"] for line in own) / len(own))
        assert {clip["label"]} == {line["label"] for line in own}


def test_perfect_predictions_score_one():
    table = certain(CLASSES * 4, CLASSES * 4, list("abcdefghijkl"))
    assert scores.scores(table, CLASSES) == dict.fromkeys(["balanced_accuracy", "accuracy", "macro_f1", "auroc"], 1.0)


def test_one_guess_for_all_has_chance_balanced_accuracy():
    table = certain(["covid"] * 7 + ["pneumonia"] * 2 + ["regular"], ["covid"] * 10, [""] * 10)
    values = scores.scores(table, CLASSES)
    assert values["balanced_accuracy"] == pytest.approx(1 / 3)
    assert values["accuracy"] == 0.7
    assert values["auroc"] == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_scores_against_loops(seed):
    table = predictions(seed)
    guesses = scores.predicted(table, CLASSES)
    values, classwise = scores.scores(table, CLASSES), scores.per_class(table, CLASSES).set_index("class")
    pairs = list(zip(table["label"], guesses, strict=True))
    recalls = []
    for name in CLASSES:
        true_positive = sum(a == name and g == name for a, g in pairs)
        false_positive = sum(a != name and g == name for a, g in pairs)
        false_negative = sum(a == name and g != name for a, g in pairs)
        true_negative = len(pairs) - true_positive - false_positive - false_negative
        recalls.append(true_positive / (true_positive + false_negative))
        expected = {
            "precision": true_positive / (true_positive + false_positive),
            "recall": recalls[-1],
            "specificity": true_negative / (true_negative + false_positive),
            "f1": 2 * true_positive / (2 * true_positive + false_positive + false_negative),
            "auroc": mann_whitney(table, name),
            "count": true_positive + false_negative,
        }
        assert classwise.loc[name].to_dict() == pytest.approx(expected)
    assert values["balanced_accuracy"] == pytest.approx(sum(recalls) / 3)
    assert values["accuracy"] == pytest.approx(sum(a == g for a, g in pairs) / len(pairs))


def mann_whitney(table: pd.DataFrame, name: str) -> float:
    """How often a frame of the class has a higher probability than another frame; ties count half."""
    inside = table.loc[table["label"] == name, f"p_{name}"]
    outside = table.loc[table["label"] != name, f"p_{name}"]
    return sum((a > b) + 0.5 * (a == b) for a in inside for b in outside) / (len(inside) * len(outside))


@pytest.mark.parametrize("seed", range(3))
def test_scores_against_scikit_learn(seed):
    table = predictions(seed)
    guesses, values = scores.predicted(table, CLASSES), scores.scores(table, CLASSES)
    chances = table[[f"p_{name}" for name in CLASSES]]
    assert values["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(table["label"], guesses))
    assert values["macro_f1"] == pytest.approx(metrics.f1_score(table["label"], guesses, average="macro"))
    assert values["auroc"] == pytest.approx(metrics.roc_auc_score(table["label"], chances, multi_class="ovr"))


@pytest.mark.parametrize("left_out", [(), ("covid",)])
def test_balanced_accuracies_of_runs_against_scikit_learn(left_out):
    """Also where a class occurs in no clip."""
    runs = [scores.clip_level(predictions(seed=seed)).assign(division=0, seed=seed) for seed in (0, 1)]
    runs = [run[~run["label"].isin(left_out)] for run in runs]
    expected = [metrics.recall_score(run["label"], scores.predicted(run, CLASSES), labels=sorted(set(run["label"])),
                                     average="macro") for run in runs]
    assert scores.balanced_accuracies(pd.concat(runs), CLASSES) == pytest.approx(expected)


def test_confusion_counts_actual_by_predicted():
    table = certain(["covid", "covid", "regular"], ["covid", "regular", "pneumonia"], ["", "", ""])
    assert scores.confusion(table, CLASSES).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_a_class_without_clips_is_undefined_and_leaves_the_others_alone():
    table = certain(["covid", "regular"] * 3, ["covid", "regular"] * 3, [""] * 6)
    values, classwise = scores.scores(table, CLASSES), scores.per_class(table, CLASSES).set_index("class")
    assert values["balanced_accuracy"] == values["macro_f1"] == 1.0
    assert np.isnan(values["auroc"])
    assert classwise.loc["pneumonia", ["precision", "recall", "f1", "auroc"]].isna().all()
    assert set(roc(table, CLASSES, points=100)["class"]) == {"covid", "regular"}
    assert roc(table[table["label"] == "covid"], CLASSES, points=100).empty


def test_roc_is_thinned_and_its_ends_stay():
    table = predictions(clips=400)
    curves = roc(table, CLASSES, points=50)
    for _, curve in curves.groupby("class"):
        assert len(curve) <= 50
        assert (curve.iloc[0][["fpr", "tpr"]] == 0).all() and (curve.iloc[-1][["fpr", "tpr"]] == 1).all()
        assert curve["fpr"].is_monotonic_increasing and curve["tpr"].is_monotonic_increasing
    full = roc(table, CLASSES, points=10_000)
    area = {name: np.trapezoid(curve["tpr"], curve["fpr"]) for name, curve in full.groupby("class")}
    assert area == pytest.approx(scores.per_class(table, CLASSES).set_index("class")["auroc"].to_dict())


def test_the_curve_of_several_runs_is_the_mean_of_theirs():
    """At each fpr, and in its area; a run whose probabilities are all higher, which pooling would take for skill, too."""
    table = pd.concat([scores.clip_level(predictions(skill=skill)).assign(seed=seed) for seed, skill in ((0, 0.5), (1, 2.0))])
    columns = [f"p_{name}" for name in CLASSES]
    table[columns] = table[columns].where(table["seed"] == 0, table[columns] / 10 + 0.9)
    curves = roc(table, CLASSES, points=10_000)
    areas = scores.over_runs(scores.per_class, table, CLASSES).set_index("class")["auroc"]
    for name, curve in curves.groupby("class"):
        assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(areas[name])
        own = [metrics.roc_curve(run["label"] == name, run[f"p_{name}"]) for run in scores.by_run(table)]
        for between in np.linspace(0.001, 0.999, 50):
            expected = np.mean([np.interp(between, fpr, tpr) for fpr, tpr, _ in own])
            assert np.interp(between, curve["fpr"], curve["tpr"]) == pytest.approx(expected)


def test_bootstrap_against_a_loop_over_the_same_resamples():
    table = scores.clip_level(predictions(seed=3))
    names = sorted(set(groups(table)))
    draws = np.random.default_rng(7).multinomial(len(names), np.full(len(names), 1 / len(names)), size=60)
    values = []
    for draw in draws:
        drawn = [name for name, times in zip(names, draw, strict=True) for _ in range(times)]
        resample = pd.concat([table[groups(table) == name] for name in drawn])
        recalls = []
        for name in CLASSES:
            own = resample[resample["label"] == name]
            if len(own):
                recalls.append((scores.predicted(own, CLASSES) == name).mean())
        values.append(np.mean(recalls))
    assert intervals.bootstrap(scores.outcome_counts(table, CLASSES), samples=60, seed=7) == pytest.approx(values)


def two_seeds() -> pd.DataFrame:
    """The same frames, predicted by two seeds."""
    first, second = predictions(seed=3), predictions(seed=3)
    second[["p_covid", "p_pneumonia", "p_regular"]] = first[["p_regular", "p_covid", "p_pneumonia"]].to_numpy()
    return pd.concat([first.assign(seed=8), second.assign(seed=2)])


def test_a_resampled_patient_brings_all_seeds():
    """Against a loop: each resample takes the patients' clips of both seeds, and its value is the mean over the seeds."""
    table = scores.clip_level(two_seeds())
    names = sorted(set(groups(table)))
    draws = np.random.default_rng(7).multinomial(len(names), np.full(len(names), 1 / len(names)), size=40)
    values = []
    for draw in draws:
        drawn = [name for name, times in zip(names, draw, strict=True) for _ in range(times)]
        resample = pd.concat([table[groups(table) == name] for name in drawn])
        seeds = [scores.scores(resample[resample["seed"] == seed], CLASSES) for seed in (2, 8)]
        values.append(np.mean([single["balanced_accuracy"] for single in seeds]))
    assert intervals.bootstrap(scores.outcome_counts(table, CLASSES), samples=40, seed=7) == pytest.approx(values)


def test_the_seeds_are_scored_apart_and_averaged():
    frames = two_seeds()
    clips = scores.clip_level(frames)
    assert clips["seed"].tolist() == [2] * 40 + [8] * 40
    each = [scores.clip_level(frames[frames["seed"] == seed]) for seed in (2, 8)]
    for score in (scores.per_class, scores.by_fold):
        lines, single = scores.over_runs(score, clips, CLASSES), [score(table, CLASSES) for table in each]
        assert list(lines) == list(single[0]) and lines.dtypes.equals(single[0].dtypes)
        for name in lines.columns[1:]:
            assert lines[name].to_numpy() == pytest.approx(np.nanmean([table[name] for table in single], axis=0))
    one = scores.clip_level(predictions())
    pd.testing.assert_frame_equal(scores.over_runs(scores.per_class, one, CLASSES), scores.per_class(one, CLASSES))


def test_a_probe_is_scored_by_its_balanced_accuracy():
    tables = {name: scores.clip_level(predictions(seed)) for seed, name in enumerate(("linear", "knn"))}
    numbers = scores.probes(pd.concat([table.assign(probe=name) for name, table in tables.items()]), CLASSES)
    assert numbers == {f"{name}_probe_balanced_accuracy": scores.scores(table, CLASSES)["balanced_accuracy"]
                       for name, table in tables.items()}


def test_patients_are_drawn_not_clips():
    labels, guesses = CLASSES * 10, ["covid"] * 30
    one_patient = certain(labels, guesses, ["a"] * 30)
    assert intervals.bootstrap(scores.outcome_counts(one_patient, CLASSES), 100, 0) == pytest.approx(1 / 3)
    right = np.repeat([True, False], 15)
    clustered = certain(["covid"] * 30, np.where(right, "covid", "regular").tolist(), [str(n // 5) for n in range(30)])
    alone = clustered.assign(patient="")
    width = {}
    for key, table in {"clustered": clustered, "alone": alone}.items():
        low, high = intervals.interval(scores.outcome_counts(table, CLASSES), confidence=0.95)
        width[key] = high - low
    assert width["clustered"] > 1.5 * width["alone"]


def test_interval_holds_the_point_estimate_and_has_the_binomial_width():
    right = np.arange(400) % 4 > 0  # 75 % of every class
    table = certain(["covid"] * 400, np.where(right, "covid", "regular").tolist(), [""] * 400)
    low, high = intervals.interval(scores.outcome_counts(table, CLASSES), confidence=0.95)
    assert low < 0.75 < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.75 * 0.25 / 400), rel=0.1)


def test_published_protocol_against_a_loop():
    rng = np.random.default_rng(0)
    lines = [(fold, epoch, int(rng.integers(10, 60)), 60 + fold) for fold in range(5) for epoch in range(8)]
    epochs = pd.DataFrame(lines, columns=["fold", "epoch", "held_out_correct", "held_out_frames"])
    correct = sum(max(line[2] for line in lines if line[0] == fold) for fold in range(5))
    assert scores.published_protocol(epochs) == pytest.approx(correct / sum(60 + fold for fold in range(5)))


def test_summary_names_every_number_and_takes_each_from_its_level():
    frames = predictions(seed=5)
    epochs = pd.DataFrame({"fold": [0, 0, 1], "epoch": [0, 1, 0], "held_out_correct": [3, 4, 1], "held_out_frames": 5})
    numbers = scores.summary(frames, epochs, CLASSES, confidence=0.95)
    clips = scores.clip_level(frames)
    folds = [scores.scores(clips[clips["fold"] == fold], CLASSES)["balanced_accuracy"] for fold in range(5)]
    guesses = scores.predicted(frames, CLASSES)
    low, high = intervals.interval(scores.outcome_counts(clips, CLASSES), confidence=0.95)
    assert numbers == pytest.approx(scores.scores(clips, CLASSES) | {
        "balanced_accuracy_low": low,
        "balanced_accuracy_high": high,
        "fold_sd": np.std(folds, ddof=1),
        "frame_accuracy": metrics.accuracy_score(frames["label"], guesses),
        "frame_balanced_accuracy": metrics.balanced_accuracy_score(frames["label"], guesses),
        "published_protocol_accuracy": 0.5,
        "clips": 40,
        "patients": len({line["patient"] or line["clip"] for _, line in frames.iterrows()}),
        "groups": len({line["patient"] or line["clip"] for _, line in frames.iterrows()}),
    })
    assert scores.by_fold(clips, CLASSES)["clips"].sum() == 40


def test_patients_who_share_a_clip_are_two_patients_in_one_group():
    labels = [CLASSES[number % 2] for number in range(8)]
    frames = certain(labels, labels, ["p1", "p2", "p3", "", "", "p3", "p1", "p2"])
    frames["group"] = ["p1", "p1", "p3", "clip 3", "clip 4", "p3", "p1", "p1"]
    epochs = pd.DataFrame({"fold": [0], "epoch": [0], "held_out_correct": [4], "held_out_frames": [8]})
    numbers = scores.summary(frames, epochs, CLASSES, confidence=0.95)
    assert (numbers["patients"], numbers["groups"]) == (5, 4)
