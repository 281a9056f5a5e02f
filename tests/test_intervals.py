"""Intervals of the balanced accuracy: exact limits, the published formula, coverage and power by simulation."""

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest

from stages.lib.evaluation import intervals
from tests.benchmarks.interval_coverage import coverage


def counts(*classes):
    """Counts [1, P, C, 2] of classes given as lists of (clips, right), one per patient."""
    found = np.zeros((1, sum(map(len, classes)), len(classes), 2), int)
    row = 0
    for number, patients in enumerate(classes):
        for pair in patients:
            found[0, row, number] = pair
            row += 1
    return found


@pytest.mark.parametrize("patients", [2, 20])
def test_if_all_clips_are_right_the_lower_limit_is_the_exact_one(patients):
    exact = binomtest(patients, patients).proportion_ci(0.95, "exact").low
    low, high = intervals.interval(counts([(3, 3)] * patients), 0.95)
    assert (low, high) == (pytest.approx(exact), 1.0)
    assert intervals.interval(counts([(1, 0)] * patients), 0.95) == (0.0, pytest.approx(1 - exact))


def test_one_clip_per_patient_is_the_exact_interval_of_fewer_trials():
    """Korn & Graubard 1998: the effective number of trials is P − 1 here, reduced by the squared ratio of the quantiles."""
    right, patients = 33, 40
    low, high = intervals.interval(counts([(1, 1)] * right + [(1, 0)] * (patients - right)), 0.95)
    trials = (patients - 1) * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, patients - 1)) ** 2
    p = right / patients
    assert low == pytest.approx(stats.beta.ppf(0.025, p * trials, (1 - p) * trials + 1))
    assert high == pytest.approx(stats.beta.ppf(0.975, p * trials + 1, (1 - p) * trials))


def test_the_limits_of_several_classes_are_those_of_zou_and_donner():
    first, second = [(2, 2)] * 9 + [(2, 0)] * 3, [(1, 1)] * 5 + [(3, 1)] * 4
    ends = [intervals.interval(counts(one), 0.95) for one in (first, second)]
    recall = [np.sum(one, 0)[1] / np.sum(one, 0)[0] for one in (first, second)]
    expected = [np.mean(recall) - np.sqrt(sum((r - end[0]) ** 2 for r, end in zip(recall, ends, strict=True))) / 2,
                np.mean(recall) + np.sqrt(sum((r - end[1]) ** 2 for r, end in zip(recall, ends, strict=True))) / 2]
    assert intervals.interval(counts(first, second), 0.95) == pytest.approx(expected)


def test_clips_of_one_patient_count_less_than_clips_of_several():
    together = intervals.interval(counts([(5, 5)] * 12 + [(5, 0)] * 4), 0.95)
    apart = intervals.interval(counts([(1, 1)] * 60 + [(1, 0)] * 20), 0.95)
    assert np.ptp(together) > 1.7 * np.ptp(apart)


def test_several_runs_are_averaged_before_the_interval():
    """Two runs whose errors are on other patients against one run with half an error on each of them."""
    first, second = counts([(2, 2)] * 8 + [(2, 0), (2, 2)]), counts([(2, 2)] * 8 + [(2, 2), (2, 0)])
    assert intervals.interval(np.concatenate([first, second]), 0.95) == pytest.approx(
        intervals.interval(counts([(2, 2)] * 8 + [(2, 1)] * 2), 0.95))


def test_the_interval_covers_the_true_value_and_a_percentile_bootstrap_does_not(monkeypatch):
    """A short form of tests/benchmarks/interval_coverage.py: 93 % less two standard errors."""
    given = {"draws": 150, "seed": 1, "patients": (2, 5, 20), "accuracies": (0.7, 0.95)}
    least = 0.93 - 2 * np.sqrt(0.93 * 0.07 / given["draws"])
    assert coverage(**given)["coverage"].min() >= least

    def percentiles(values, confidence):
        return np.quantile(intervals.bootstrap(values, 200, 0), [(1 - confidence) / 2, (1 + confidence) / 2])

    monkeypatch.setattr("tests.benchmarks.interval_coverage.interval", percentiles)
    assert coverage(**given | {"draws": 40})["coverage"].min() < 0.5


def test_the_interval_covers_the_true_value_if_patients_have_clips_of_every_class():
    """43 patients, some easy and some hard in all three classes. For independent classes the interval would cover 86 %."""
    draw, inside, shape = np.random.default_rng(0), [], (43, 3)
    for _ in range(200):
        easy = draw.beta(0.35, 0.15, shape[0])[:, None]
        clips = draw.integers(0, 4, shape)
        right = draw.binomial(clips, np.broadcast_to(easy, shape))
        low, high = intervals.interval(np.stack([clips, right], -1)[None], 0.95)
        inside.append(low <= 0.7 <= high)
    assert np.mean(inside) >= 0.93


def test_the_detectable_difference_is_shown_with_a_power_of_80_percent():
    """Simulated pairs of runs that agree on many clips; the power of the test that the paired interval makes."""
    draw, shown, patients, gain = np.random.default_rng(0), [], 120, 0.095
    sizes = []
    for _ in range(150):
        first = draw.random(patients) < 0.7
        second = np.where(draw.random(patients) < 0.75, first, draw.random(patients) < 0.7 + 4 * gain)
        pair = [counts([(1, int(right)) for right in one]) for one in (first, second)]
        shown.append(intervals.paired_interval(*pair, 400, 0.95, 0)[0] > 0)
        sizes.append(intervals.detectable_difference(*pair, 400, 0.95, 0))
    true = 0.25 * 4 * gain
    expected = stats.norm.cdf(true / (np.mean(sizes) / (stats.norm.ppf(0.975) + stats.norm.ppf(0.8))) - stats.norm.ppf(0.975))
    assert np.mean(shown) == pytest.approx(expected, abs=0.1)


def test_of_two_equal_runs_of_few_patients_few_differ():
    """12 patients with five clips each. The quantiles of the bootstrap as they stand tell too many equal runs apart."""
    rng, false = np.random.default_rng(0), {"expanded": 0, "plain": 0}
    for _ in range(400):
        right = rng.binomial(5, (rng.beta(2, 1, 12) + rng.normal(0, 0.2, (2, 12))).clip(0, 1))
        first, second = (counts([(5, each) for each in one[:6]], [(5, each) for each in one[6:]]) for one in right)
        differences = intervals.bootstrap(second, 400, 0) - intervals.bootstrap(first, 400, 0)
        tail = stats.norm.cdf(-np.sqrt(12 / 10) * stats.t.ppf(0.975, 10))           # Hesterberg 2015, with P − C for n − 1
        low, high = intervals.paired_interval(first, second, 400, 0.95, 0)
        assert (low, high) == pytest.approx(np.quantile(differences, [tail, 1 - tail]))
        false["expanded"] += low > 0 or high < 0
        plain = np.quantile(differences, [0.025, 0.975])
        false["plain"] += plain[0] > 0 or plain[1] < 0
    assert false["expanded"] <= 26 < 32 < false["plain"]             # of 400, 20 wanted


@pytest.mark.parametrize("patients", [12, 80])
def test_of_equal_runs_the_best_is_seldom_told_from_any_other(patients):
    """Ten runs of the same true accuracy: as the best is chosen by its score, intervals for nine comparisons are too narrow.
    So are the quantiles of the bootstrap as they stand, the more the fewer patients there are.
    """
    rng, false = np.random.default_rng(0), {"simultaneous": 0, "nine": 0}
    kind = np.arange(patients) % 2
    for _ in range(120):
        right = rng.random((10, patients)) < rng.beta(2, 1, patients)
        runs = [np.zeros((1, patients, 2, 2), int) for _ in right]
        for counts, one in zip(runs, right, strict=True):
            counts[0, np.arange(patients), kind] = np.stack([np.ones(patients), one], 1)
        values = np.array([[one[kind == number].mean() for number in (0, 1)] for one in right]).mean(1)
        best, worst = values.argmax(), values.argmin()
        spread, reach = intervals.simultaneous(runs, 500, 0.95, seed=1)
        false["simultaneous"] += (values[best] - values > reach * spread[best]).any()
        false["nine"] += intervals.paired_interval(runs[worst], runs[best], 500, 1 - 0.05 / 9, seed=1)[0] > 0
    assert false["simultaneous"] <= 14 < false["nine"]          # of 120, 6 wanted
