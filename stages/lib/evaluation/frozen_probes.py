"""Probes: simple classifiers on the features of a backbone that was not fine-tuned."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from stages.lib.clips.sampling import spread
from stages.lib.evaluation.preparation import TaskFrames
from stages.lib.networks.backbone import Backbone
from stages.lib.params import Count, Positive
from stages.lib.training.views import Views

CHUNK = 256     # frames that go through a network at once
KEYS = ["division", "clip", "patient", "group", "fold", "label"]


@torch.no_grad()
def features(backbone: Backbone, frames: torch.Tensor, views: Views) -> np.ndarray:
    """Features [N, F] of frames [N, 1, H, W] uint8, without augmentation and with running statistics."""
    backbone.eval()
    return torch.cat([backbone(views.normalise(part.float() / 255)) for part in frames.split(CHUNK)]).cpu().numpy()


@torch.no_grad()
def set_statistics(backbone: Backbone, frames: torch.Tensor, views: Views) -> None:
    """Set the running statistics of batch norm to the means over the frames [N, 1, H, W] uint8, in one pass.

    A network with random weights has the statistics 0 and 1, with which its features say little. The frames must be training
    frames. The statistics are the means of those of equal batches (`momentum` None of torch.nn.BatchNorm2d). Every batch is
    spread over all frames: neighbours are alike, so batches of neighbours would miss most of the variance.
    """
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    backbone.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    batches = math.ceil(len(frames) / CHUNK)
    for first in range(batches):
        backbone(views.normalise(frames[first::batches].float() / 255))
    backbone.eval()
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def some_of_each(clips: pd.Series, most: int) -> np.ndarray:
    """The places of at most `most` frames of each clip, evenly spread; `clips` has the clip of each frame."""
    places = clips.groupby(clips.to_numpy(), sort=False).indices.values()
    return np.concatenate([spread(own, most) for own in places])


class FrozenFeatures:
    """The features of a task's frames before fine-tuning, in each fold.

    Args:
        backbone: with its first weights.
        frames: a TaskFrames.
        calibrate: set the statistics of batch norm from the training frames of each fold; for random weights.
    """

    def __init__(self, backbone: Backbone, frames: TaskFrames, views: Views, calibrate: bool):
        backbone = backbone.to(frames.grey.device)
        self.backbone, self.frames, self.views, self.calibrate = backbone, frames, views, calibrate
        self.values = None if calibrate else features(backbone, frames.grey, views)

    def __call__(self, training: tuple) -> np.ndarray:
        """Features [N, F] of all frames, for a training of the cross-validation."""
        if not self.calibrate:
            return self.values
        inside = self.frames.table["clip"].isin(training.parts["training"] | training.parts["inner"]).to_numpy()
        set_statistics(self.backbone, self.frames.grey[torch.tensor(inside, device=self.frames.grey.device)], self.views)
        return features(self.backbone, self.frames.grey, self.views)

    def held_out(self, trainings: list[tuple]) -> tuple[np.ndarray, pd.DataFrame]:
        """Features [n, F] of the frames that the first division holds out, each as a held-out frame, and their table."""
        division = [training for training in trainings if training.division == trainings[0].division]
        found, table, inside = self(division[-1]), self.frames.table, np.zeros(len(self.frames.table), bool)
        for training in division[::-1]:
            rows = table["clip"].isin(training.parts["held_out"]).to_numpy()
            inside |= rows
            if self.calibrate and training is not division[-1]:
                found[rows] = self(training)[rows]
        return found[inside], table[inside]


class Probes:
    """The probes, fitted and asked fold by fold.

    Args:
        neighbours: number of nearest training frames (cosine distance) that vote; all, if there are fewer.
        regularisation: 1 / C of the linear probe, scikit-learn's logistic regression on standardised features.
        max_frames: if there are more training frames, each clip gives at most `max_frames` / clips of them, evenly spread. So
            the time grows with the number of frames, not with its square.
    """

    def __init__(self, neighbours: Count, regularisation: Positive, max_frames: Count):
        self.neighbours, self.regularisation, self.max_frames = neighbours, regularisation, max_frames

    def models(self, frames: int) -> dict[str, ClassifierMixin]:
        """The unfitted probes by name, for so many training frames."""
        regression = LogisticRegression(C=1 / self.regularisation, max_iter=1000)
        neighbours = KNeighborsClassifier(min(self.neighbours, frames), metric="cosine")
        return {"linear": make_pipeline(StandardScaler(), regression), "knn": neighbours}

    def predict(
        self, features: Callable[[tuple], np.ndarray], table: pd.DataFrame, classes: list[str], trainings: list[tuple]
    ) -> pd.DataFrame:
        """Fit on each fold's training and inner frames, predict its held-out ones; mean probabilities over a clip's frames.

        Args:
            features: gives the features [N, F] for a training of the list.
            table: clip, patient, group, label of each of the N frames.
            trainings: cross_validation.Training, one per division and fold. The inner part trains, too, as probes choose no
                epoch.

        Returns:
            A row per probe, division and held-out clip: probe, KEYS, p_<class> ….
        """
        labels, columns, found = table["label"].map(classes.index).to_numpy(), [f"p_{name}" for name in classes], []
        for training in trainings:
            known = training.parts["training"] | training.parts["inner"]
            inside = table["clip"].isin(known).to_numpy().nonzero()[0]
            if len(inside) > self.max_frames:
                inside = inside[some_of_each(table["clip"].iloc[inside], max(1, self.max_frames // len(known)))]
            held_out, values = table["clip"].isin(training.parts["held_out"]).to_numpy(), features(training)
            for name, model in self.models(len(inside)).items():
                probabilities = model.fit(values[inside], labels[inside]).predict_proba(values[held_out])       # n x classes
                rows = table.loc[held_out, ["clip", "patient", "group", "label"]]
                rows = rows.assign(probe=name, division=training.division, fold=training.fold)
                found.append(rows.assign(**dict(zip(columns, probabilities.T, strict=True))))
        return pd.concat(found).groupby(["probe", *KEYS], as_index=False)[columns].mean().round(6)
