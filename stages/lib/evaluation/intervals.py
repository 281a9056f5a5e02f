"""Intervals of balanced accuracies by a bootstrap over patients.

The functions take counts [R, P, C, 2] of whole numbers: for each of R runs (seeds), P patients (groups) and C classes the
number of the patient's clips of that class, and how many of them are predicted rightly.
"""

import numpy as np


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


def interval(counts: np.ndarray, samples: int, confidence: float, seed: int) -> tuple[float, float]:
    """Percentile interval (low, high) of the balanced accuracy; `confidence` e.g. 0.95."""
    return _percentiles(bootstrap(counts, samples, seed), confidence)


def paired_interval(
    first: np.ndarray, second: np.ndarray, samples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Percentile interval of the difference in balanced accuracy, second − first, over the same resamples of the patients."""
    return _percentiles(bootstrap(second, samples, seed) - bootstrap(first, samples, seed), confidence)


def _percentiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """The middle `confidence` of the values."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
