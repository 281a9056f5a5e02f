"""Probes: simple classifiers on the features of a backbone that was not fine-tuned."""

import numpy as np
import pandas as pd
import torch
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stages.lib.networks.backbone import Backbone
from stages.lib.params import Count, Positive
from stages.lib.training.views import Views


@torch.no_grad()
def features(backbone: Backbone, frames: torch.Tensor, views: Views) -> np.ndarray:
    """Features [N, F] of frames [N, 1, H, W] uint8, without augmentation and with running statistics."""
    backbone.eval()
    return torch.cat([backbone(views.normalise(part.float() / 255)) for part in frames.split(256)]).cpu().numpy()


class Probes:
    """The probes, fitted and asked fold by fold.

    Args:
        neighbours: number of nearest training frames (cosine distance) that vote; all, if there are fewer.
        regularisation: 1 / C of the linear probe, scikit-learn's logistic regression on standardised features.
    """

    def __init__(self, neighbours: Count, regularisation: Positive):
        self.neighbours, self.regularisation = neighbours, regularisation

    def models(self, frames: int) -> dict[str, ClassifierMixin]:
        """The unfitted probes by name, for so many training frames."""
        regression = LogisticRegression(C=1 / self.regularisation, max_iter=1000)
        neighbours = KNeighborsClassifier(min(self.neighbours, frames), metric="cosine")
        return {"linear": make_pipeline(StandardScaler(), regression), "knn": neighbours}

    def predict(self, features: np.ndarray, table: pd.DataFrame, classes: list[str], folds: list[dict]) -> pd.DataFrame:
        """Fit on each fold's training and inner frames, predict its held-out ones; mean probabilities over a clip's frames.

        Args:
            features: [N, F].
            table: clip, patient, fold, label of each of the N frames.
            folds: `folds.parts` of each fold; the inner part trains, too, as probes choose no epoch.

        Returns:
            A row per probe and held-out clip: probe, clip, patient, fold, label, p_<class> ….
        """
        labels, columns, found = table["label"].map(classes.index).to_numpy(), [f"p_{name}" for name in classes], []
        for part in folds:
            training = table["clip"].isin(part["training"] | part["inner"]).to_numpy()
            held_out = table["clip"].isin(part["held_out"]).to_numpy()
            for name, model in self.models(training.sum()).items():
                model.fit(features[training], labels[training])
                probabilities = model.predict_proba(features[held_out])                 # n x classes
                rows = table.loc[held_out, ["clip", "patient", "fold", "label"]].assign(probe=name)
                found.append(rows.assign(**dict(zip(columns, probabilities.T, strict=True))))
        keys = ["probe", "clip", "patient", "fold", "label"]
        return pd.concat(found).groupby(keys, as_index=False)[columns].mean().round(6)
