"""Floors: classifiers that see no anatomy, in the folds of the task. A score counts only above the highest of them.

A benchmark whose classes come from different scanners can be solved by the scanner (shortcut learning: Geirhos et al. 2020,
Nature Machine Intelligence 2; DeGrave et al. 2021, Nature Machine Intelligence 3, on radiographs of COVID-19).

    floor_size, floor_frame_rate, floor_crop_box, floor_fan_geometry, floor_frame_count
                                    one part each of what the clip table says about how a clip was taken
    floor_acquisition               all of these parts: the mean of their probabilities. One forest on all columns together is
                                    weaker than its best part: the many weak columns hide the few strong ones
    floor_outline                   the mask of pixels that are ever lit, on a grid of SIDE x SIDE
    floor_histogram                 the histogram of grey values, BINS bins
    random_features                 mean features of a network with random weights over FRAMES frames; its batch norm has the
                                    statistics of such frames of all clips, held out or not, without their labels
    random_features_uncalibrated    the same with the statistics 0 and 1 that random weights come with
"""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stages.lib.clips import store
from stages.lib.clips.fan import DARK
from stages.lib.evaluation import scores
from stages.lib.evaluation.frozen_probes import CHUNK, KEYS, features, set_statistics, some_of_each
from stages.lib.evaluation.intervals import detectable_difference, paired_interval
from stages.lib.evaluation.preparation import TaskClips, TaskFrames
from stages.lib.networks.backbone import Backbone
from stages.lib.training.views import Views

PARTS = {
    "floor_size": ["height", "width"], "floor_frame_rate": ["fps"], "floor_fan_geometry": store.FAN,
    "floor_crop_box": ["crop_left", "crop_top", "crop_width", "crop_height"],
    "floor_frame_count": ["frames_read", "frames_kept"],
}  # fmt: skip
SIDE, BINS = 16, 32
TREES = 100
LEAF = 3        # clips at least in a leaf: in leaves of one clip the weights of the classes do nothing
FRAMES = 5      # of a clip that the random network sees: frames of one clip are alike
C = 0.01        # of the logistic regression: there are more features than clips
NAMES = ("floor_acquisition", *PARTS, "floor_outline", "floor_histogram", "random_features", "random_features_uncalibrated")


def predict(clips: TaskClips, frames: TaskFrames, trainings: list, arch: str, views: Views, seed: int) -> pd.DataFrame:
    """Fit every floor on the training clips of each fold, predict the held-out ones.

    Clips count alike, whatever their number of frames, and classes count alike.

    Args:
        trainings: cross_validation.Training, one per division and fold.
        arch: of the random network; views: normalise its input.
        seed: of the forests and of the random network.

    Returns:
        A row per floor, division and held-out clip: floor, KEYS, p_<class> ….
    """
    used = clips.used.set_index("clip").loc[frames.table["clip"].unique()]
    seen, found = inputs(used, frames, arch, views, seed), []
    for training in trainings:
        inside, held_out = (used.index.isin(part) for part in (
            training.parts["training"] | training.parts["inner"], training.parts["held_out"]))
        # The models get numbers: scikit-learn fails on texts such as "0". The classes are in the order of its columns.
        classes, label = np.unique(used["label"][inside].to_numpy(), return_inverse=True)
        probabilities = {name: _model(name, seed).fit(values[inside], label).predict_proba(values[held_out])
                         for name, values in seen.items()}
        probabilities["floor_acquisition"] = np.mean([probabilities[part] for part in PARTS], axis=0)
        known = used.reset_index()[["clip", "patient", "group", "label"]][held_out]
        for name in NAMES:
            table = pd.DataFrame(probabilities[name], known.index, classes)
            columns = table[clips.task.classes].add_prefix("p_").round(6)
            found.append(known.assign(floor=name, division=training.division, fold=training.fold).join(columns))
    return pd.concat(found)[["floor", *KEYS, *columns]]


def inputs(used: pd.DataFrame, frames: TaskFrames, arch: str, views: Views, seed: int) -> dict[str, np.ndarray]:
    """The input of each floor but floor_acquisition, [clips, F]; clips in the order of the frames."""
    torch.manual_seed(seed)
    network, some = Backbone(arch).to(frames.grey.device), thinned(frames)
    seen = {part: used.reindex(columns=columns).astype(float).to_numpy() for part, columns in PARTS.items()}
    seen |= {"floor_outline": per_clip(outlines(frames), frames), "floor_histogram": per_clip(histograms(frames), frames)}
    seen["random_features_uncalibrated"] = per_clip(features(network, some.grey, views), some)
    set_statistics(network, some.grey, views)
    return seen | {"random_features": per_clip(features(network, some.grey, views), some)}


def _model(name: str, seed: int) -> ClassifierMixin:
    """The unfitted classifier of a floor. Forests take missing values: frame rates of images, fans of linear probes."""
    if name.startswith("random_features"):
        return make_pipeline(StandardScaler(), LogisticRegression(C=C, class_weight="balanced", max_iter=1000))
    return RandomForestClassifier(TREES, min_samples_leaf=LEAF, class_weight="balanced", random_state=seed)


def thinned(frames: TaskFrames) -> TaskFrames:
    """At most FRAMES frames of each clip, evenly spread."""
    kept = some_of_each(frames.table["clip"], FRAMES)
    places = torch.from_numpy(kept).to(frames.grey.device)
    return TaskFrames(frames.grey[places], frames.labels[places], frames.table.iloc[kept].reset_index(drop=True))


def per_clip(values: np.ndarray, frames: TaskFrames) -> np.ndarray:
    """Means over the frames of each clip: [N, F] → [clips, F], clips in the order of the frames."""
    return pd.DataFrame(values).groupby(frames.table["clip"].to_numpy(), sort=False).mean().to_numpy()


def outlines(frames: TaskFrames) -> np.ndarray:
    """For each frame the share of pixels in each cell of the grid that are lit in any frame of its clip: [N, SIDE²]."""
    grids = []
    for own in frames.table.groupby("clip", sort=False).indices.values():
        rows = torch.from_numpy(own).to(frames.grey.device)
        lit = (frames.grey[rows].amax(0, keepdim=True) > DARK).float()                          # 1 x 1 x H x W
        grids.append(F.adaptive_avg_pool2d(lit, SIDE).flatten().cpu().numpy())
    return np.stack(grids)[pd.factorize(frames.table["clip"])[0]]


def histograms(frames: TaskFrames) -> np.ndarray:
    """The histogram of grey values of each frame: [N, BINS], a frame's values sum to 1."""
    found = []
    for part in frames.grey.split(CHUNK):
        bins = part.flatten(1).long() * BINS // 256                                             # n x H·W
        offset = BINS * torch.arange(len(bins), device=bins.device).unsqueeze(1)
        counts = torch.bincount((bins + offset).flatten(), minlength=BINS * len(bins)).view(-1, BINS)
        found.append(counts / bins.shape[1])
    return torch.cat(found).cpu().numpy()


def summary(
    floors: pd.DataFrame, clips: pd.DataFrame, classes: list[str], samples: int, confidence: float, seed: int
) -> dict[str, dict[str, float] | str]:
    """The floors beside the score of the networks.

    The highest of several floors is high by luck, too: the comparison is somewhat strict on the score.

    Args:
        floors: as `predict` returns them.
        clips: the clip-level predictions of the networks.
        samples, confidence, seed: of the paired bootstrap over patients.

    Returns:
        values: balanced accuracy by floor; highest: the name of the highest one; difference, low, high: score − highest floor
        and its interval; detectable: the smallest true difference that these patients show with 80 % power (intervals.py);
        above: True if the interval lies above 0.
    """
    parts = floors.groupby("floor", sort=False)
    values = {name: float(scores.balanced_accuracies(part, classes).mean()) for name, part in parts}
    highest = max(values, key=values.get)
    counts = [scores.outcome_counts(table, classes) for table in (floors[floors["floor"] == highest], clips)]
    low, high = paired_interval(*counts, samples, confidence, seed)
    detectable = detectable_difference(*counts, samples, confidence, seed)
    difference = float(scores.balanced_accuracies(clips, classes).mean()) - values[highest]
    return {"values": values, "highest": highest, "difference": difference, "low": low, "high": high, "detectable": detectable,
            "above": low > 0}
