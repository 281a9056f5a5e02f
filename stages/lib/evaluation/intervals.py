"""Intervals of balanced accuracies, with patients as the unit.

The functions take counts [R, P, C, 2] of whole numbers: for each of R runs (divisions and seeds), P patients (groups) and C
classes the number of the patient's clips of that class, and how many of them are predicted rightly.
"""

import numpy as np
from scipy.special import betaincinv, ndtr, ndtri, stdtrit

POWER = 0.8     # of detectable differences


def interval(counts: np.ndarray, confidence: float) -> tuple[float, float]:
    """Interval (low, high) of the balanced accuracy: the intervals of the recalls, combined by MOVER.

    The recall of each class has the interval of Korn & Graubard (1998, Survey Methodology 24, 193-201): that of Clopper &
    Pearson (1934) for n p successes in n trials. The effective number of trials is n = p (1 − p) / variance, times the squared
    ratio of the normal and the t quantile; the variance is that of the recall p over the P patients of the class. If all clips
    are right, or all wrong, n = P: 20 patients with all clips right give a lower limit of 0.83, a bootstrap would give 1.

    MOVER (Zou & Donner 2008, Statistics in Medicine 27, 1693-1702) gives the limits of the mean of recalls r with limits l, u:
    mean − √ΣΣ ρ (r − l) (r' − l') / C and mean + √ΣΣ ρ (u − r) (u' − r') / C over all pairs of classes, of correlation ρ. It is
    0 where no patient has clips of both. If a class has a single patient, the limits are not closer than those of
    Clopper & Pearson for one trial per patient, in classes of equal weight.

    The coverage is at least 93 % for 95 % asked in 853 of 854 simulated cases of 2 to 80 patients, 91 % in the other
    (tests/benchmarks/interval_coverage.py).
    """
    counts = counts[:, :, counts[0, :, :, 0].sum(0) > 0]                        # without classes that have no clip
    low, recall, high = np.transpose([_recall(counts[:, :, number], confidence) for number in range(counts.shape[2])])
    mean, classes, related = recall.mean(), len(recall), _correlation(counts, recall)
    low, high = (mean + sign * np.sqrt((recall - end) @ related @ (recall - end)) / classes
                 for sign, end in ((-1, low), (1, high)))
    patients = (counts[0, :, :, 0] > 0).sum(0)
    if patients.min() == 1:
        trials = classes**2 / (1 / patients).sum()
        ends = _exact(mean * trials, trials, (1 - confidence) / 2)
        low, high = min(low, ends[0]), max(high, ends[1])
    return float(low), float(high)


def _exact(right: float, trials: float, tail: float) -> tuple[float, float]:
    """The interval of Clopper & Pearson; the numbers need not be whole."""
    low = betaincinv(right, trials - right + 1, tail) if right > 0 else 0.0
    high = betaincinv(right + 1, trials - right, 1 - tail) if right < trials else 1.0
    return low, high


def _recall(counts: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """The recall of a class, between the limits of its interval, from the counts [R, P, 2] of one class."""
    counts = counts[:, counts[0, :, 0] > 0]
    clips, right = counts[..., 0], counts[..., 1]                                               # R x P each
    total, patients = clips[0].sum(), clips.shape[1]
    p, tail = right.mean(0).sum() / total, (1 - confidence) / 2
    trials = float(patients)
    variance = ((right.mean(0) - p * clips[0]) ** 2).sum() / total**2 * patients / max(patients - 1, 1)
    if 0 < p < 1 and patients > 1 and variance > 0:
        trials = p * (1 - p) / variance * (ndtri(tail) / stdtrit(patients - 1, tail)) ** 2
    low, high = _exact(p * trials, trials, tail)
    return low, p, high


def _correlation(counts: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """The correlation of the recalls [C, C] over the patients, some of whom have clips of several classes.

    A negative one is taken for 0: it would narrow the interval, and few patients do not tell it well. If a class has no error,
    or nothing but errors, it is unknown: then the part of the patients that two classes share is taken, the most it can be.
    """
    clips = counts[0, :, :, 0]                                                                  # P x C
    off, there = counts[..., 1].mean(0) - recall * clips, (clips > 0).astype(float)
    (shared, spread), (most, patients) = (_products(values) for values in (off, there))
    return np.divide(shared, spread, out=most / patients, where=spread > 0).clip(min=0)


def _products(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sums of products of each two columns [C, C], and the most that they could be."""
    products = values.T @ values
    squares = products.diagonal()
    return products, np.sqrt(np.outer(squares, squares))


def bootstrap(counts: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Balanced accuracy in `samples` resamples of the patients, drawn with replacement. Returns [samples].

    Patients are drawn, not clips, since the clips of one patient are alike. A drawn patient contributes the predictions of all
    runs; the value is the mean over the runs. A class that a resample misses does not count in its mean recall. The same number
    of patients and the same seed give the same resamples, so the difference of two results is a paired bootstrap.
    """
    patients = counts.shape[1]
    draws = np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), size=samples)    # S x P
    return np.mean([_resampled(draws, run) for run in counts], axis=0)


def _resampled(draws: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Balanced accuracy of one run [P, C, 2] in each resample [S, P]: [S]."""
    clips, right = draws @ counts[..., 0], draws @ counts[..., 1]                                               # S x C each
    return np.nanmean(np.divide(right, clips, out=np.full(clips.shape, np.nan), where=clips > 0), axis=1)


def paired_interval(
    first: np.ndarray, second: np.ndarray, samples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Percentile interval of the difference in balanced accuracy, second − first, over the same resamples of the patients.

    Its tails are expanded for few patients, as Hesterberg (2015, The American Statistician 69, 371-386) does it: `_few`.
    """
    wider, freedom = _few(first)
    tail = ndtr(wider * stdtrit(freedom, (1 - confidence) / 2))
    low, high = np.quantile(bootstrap(second, samples, seed) - bootstrap(first, samples, seed), [tail, 1 - tail])
    return float(low), float(high)


def _few(counts: np.ndarray) -> tuple[float, int]:
    """What few patients need more than a bootstrap: a factor of its SD, and degrees of freedom.

    P resampled patients of C classes scatter too little, by (P − C) / P in the variance, and the SD is itself uncertain: a
    quantile of Student's t with P − C degrees of freedom takes the place of the normal one.
    """
    patients, classes = counts.shape[1], (counts[0, :, :, 0].sum(0) > 0).sum()
    freedom = max(1, int(patients - classes))
    return float(np.sqrt(patients / freedom)), freedom


def detectable_difference(first: np.ndarray, second: np.ndarray, samples: int, confidence: float, seed: int) -> float:
    """The smallest true difference that these patients show with a power of POWER: (t(confidence) + t(power)) · its SD.

    The SD is that of the paired bootstrap, for few patients as `_few` says, so the answer holds for pairs of runs that agree as
    much as these two.
    """
    wider, freedom = _few(first)
    spread = (bootstrap(second, samples, seed) - bootstrap(first, samples, seed)).std()
    return float(stdtrit(freedom, [(1 + confidence) / 2, POWER]).sum() * wider * spread)


def simultaneous(runs: list[np.ndarray], samples: int, confidence: float, seed: int) -> tuple[np.ndarray, float]:
    """Intervals of the differences of all pairs of runs that hold together, so that the best may be chosen by its score.

    As in Tukey's method, but with the joint distribution of the paired bootstrap: in a fraction `confidence` of the
    resamples no difference is further from its mean than so many of its SDs; for few patients wider, as `_few` says.

    Args:
        runs: the counts of K runs of the same patients.

    Returns:
        The SD of the difference of each two runs, [K, K], and the number of SDs to either side.
    """
    values = np.array([bootstrap(counts, samples, seed) for counts in runs]).reshape(len(runs), samples)        # K x S
    values -= values.mean(1, keepdims=True)
    spread, furthest = np.zeros((len(runs), len(runs))), np.zeros(samples)
    for number, one in enumerate(values):
        apart = one - values[:number]
        deviation = apart.std(1)
        spread[number, :number] = spread[:number, number] = deviation
        ratio = np.divide(np.abs(apart).T, deviation, out=np.zeros(apart.T.shape), where=deviation > 0)
        furthest = np.maximum(furthest, ratio.max(1, initial=0))
    wider, freedom = _few(runs[0])
    return spread * wider, float(stdtrit(freedom, ndtr(np.quantile(furthest, confidence))))
