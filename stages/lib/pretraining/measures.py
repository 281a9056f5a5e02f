"""Measures of the features on held-out clips, the same for every method."""

import math

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

from stages.lib.networks.heads import unit
from stages.lib.networks.initial import load
from stages.lib.params import require
from stages.lib.pretraining.clip_set import ClipSet
from stages.lib.pretraining.method import ContrastiveMethod

FRAMES = 4       # of each clip, evenly spread
NEIGHBOURS = 10  # or all, if there are fewer


@torch.no_grad()
def held_out_loss(model: ContrastiveMethod, held_out: ClipSet, batch_size: int, draw: torch.Generator) -> float:
    """The method's loss on the held-out clips, with running statistics; equal `draw` gives equal frames and views.

    A method with several terms is measured by its term `contrastive`, as in USCL: labels must not choose the checkpoint.
    """
    if len(held_out) < 2:       # nothing to contrast with
        return math.nan
    model.eval()
    total = 0.0
    for frames, clips in held_out.batches(batch_size, model.pick, draw):
        loss, terms = model.loss(frames, clips, draw)
        total += terms.get("contrastive", loss) * len(frames)
    return float(total) / len(held_out)


@torch.no_grad()
def measures(model: ContrastiveMethod, train: ClipSet, held_out: ClipSet, draw: torch.Generator) -> dict[str, float]:
    """knn_accuracy, alignment and uniformity of the backbone's unit features; NaN where there are too few clips.

    knn_accuracy: accuracy of the nearest labelled training clips in predicting the pooled class of labelled held-out clips.
    alignment: mean squared distance of two views of a frame; 0 is best. uniformity: log of the mean of exp(−2 d²) over all
    distances d between clips; low values mean features that cover the sphere evenly (Wang & Isola 2020, arXiv 2005.10242,
    Sec. 4.1).
    """
    model.eval()
    out = {"knn_accuracy": knn_accuracy(model, train, held_out), "alignment": math.nan, "uniformity": math.nan}
    if len(held_out) > 1:
        frames = held_out.frames[held_out.first + held_out.clips.count // 2]      # B x 1 x H x W
        views = [model.views.normalise(model.augment(frames[None], held_out.clips, draw, dim=1))[0] for _ in range(2)]
        left, right = (unit(torch.cat([model.backbone(part) for part in view.split(256)])) for view in views)
        out["alignment"] = float((left - right).square().sum(1).mean())
        out["uniformity"] = float(torch.pdist(left).square().mul(-2).exp().mean().log())
    return out


def better(best: dict, keep: str, row: dict, model: ContrastiveMethod) -> dict:
    """The weights to keep after an epoch, with its number and held-out loss: those of `best`, or the model's.

    A held-out loss that is not finite never beats one that is.
    """
    if keep == "best_held_out_loss" and best and math.isfinite(best["held_out_loss"]):
        if not row["held_out_loss"] < best["held_out_loss"]:
            return best
    weights = {name: value.detach().to("cpu", copy=True) for name, value in model.backbone.network.state_dict().items()}
    return {"epoch": row["epoch"], "held_out_loss": row["held_out_loss"], "weights": weights}


@torch.no_grad()
def kept_features(
    model: ContrastiveMethod, weights: dict[str, torch.Tensor], train: ClipSet, held_out: ClipSet
) -> tuple[np.ndarray, dict[str, float]]:
    """Load the kept weights into the model and compute the features of the held-out clips.

    Returns:
        Features [clips, F] as in `clip_features`; knn_accuracy and knn_source_accuracy: accuracy of the nearest training clips
        in predicting pooled class and source.

    Raises:
        UserError: the features are not finite, though the training loss was: it does not use the running statistics.
    """
    load(model.backbone, weights, "the kept weights")
    model.eval()
    known, queried = (clip_features(model, part) for part in (train, held_out))
    require(finite(known, queried), "the kept weights give features that are not finite; lower optimizer.learning_rate in the "
            "block of the method")
    sources = sorted({*train.table["source"], *held_out.table["source"]})
    numbers = [torch.tensor([sources.index(name) for name in part.table["source"]]) for part in (train, held_out)]
    return queried.numpy(), {
        "knn_accuracy": neighbour_accuracy(known, queried, train.clips.label.cpu(), held_out.clips.label.cpu()),
        "knn_source_accuracy": neighbour_accuracy(known, queried, *numbers),
    }


def knn_accuracy(model: ContrastiveMethod, train: ClipSet, held_out: ClipSet) -> float:
    """Accuracy of the nearest training clips in predicting the pooled classes of the held-out clips."""
    labels = [part.clips.label.cpu() for part in (train, held_out)]
    if not all((label >= 0).any() for label in labels):
        return math.nan
    return neighbour_accuracy(clip_features(model, train), clip_features(model, held_out), *labels)


def neighbour_accuracy(known: torch.Tensor, queried: torch.Tensor, labels: torch.Tensor, queried_labels: torch.Tensor) -> float:
    """Accuracy of scikit-learn's nearest neighbours (cosine, one vote each) on the clips that have a label.

    Args:
        known, queried: features [n, F] and [m, F].
        labels, queried_labels: [n] and [m], −1 where unlabelled.

    Returns:
        NaN if one side has no label at all, or a feature is not finite.
    """
    labelled, wanted = labels >= 0, queried_labels >= 0
    if not (labelled.any() and wanted.any() and finite(known, queried)):
        return math.nan
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, int(labelled.sum())), metric="cosine")
    return float(neighbours.fit(known[labelled], labels[labelled]).score(queried[wanted], queried_labels[wanted]))


def finite(*features: torch.Tensor) -> bool:
    """Whether all features are finite."""
    return all(bool(part.isfinite().all()) for part in features)


def clip_features(model: ContrastiveMethod, clip_set: ClipSet) -> torch.Tensor:
    """The mean unit feature of a few frames of every clip, not augmented, [clips, F] on the CPU."""
    spread = torch.linspace(0, 1, FRAMES, device=clip_set.first.device)
    places = ((clip_set.clips.count[:, None] - 1) * spread).round().long() + clip_set.first[:, None]
    parts = []
    for rows in places.split(64):
        frames = clip_set.frames[rows.flatten()]
        parts.append(unit(model.backbone(model.views.normalise(frames))).unflatten(0, rows.shape).mean(1))
    return torch.cat(parts).cpu()
