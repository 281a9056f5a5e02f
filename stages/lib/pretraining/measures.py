"""Whether the features get better: measures on the held-out clips, the same for every method."""

import math

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

from stages.lib.networks.heads import unit
from stages.lib.pretraining.clip_set import ClipSet
from stages.lib.pretraining.method import ContrastiveMethod

FRAMES = 4       # of each clip, evenly spread
NEIGHBOURS = 10  # or all, where there are fewer


@torch.no_grad()
def held_out_loss(model: ContrastiveMethod, held_out: ClipSet, batch_size: int, draw: torch.Generator) -> float:
    """The method's loss on the held-out clips, with running statistics and the same frames and views for the same `draw`.

    Of a method with several terms it is `contrastive` that counts, as in USCL: labels must not choose the checkpoint.
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

    knn_accuracy: of the pooled classes of the labelled held-out clips, told by their nearest labelled training clips.
    alignment: mean squared distance of two views of a frame, 0 is best; uniformity: log of the mean of exp(−2 d²) over all
    distances d between clips, the lower the more evenly the features cover the sphere (Wang & Isola 2020, arXiv
    2005.10242, Sec. 4.1).
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


@torch.no_grad()
def kept_features(
    model: ContrastiveMethod, weights: dict[str, torch.Tensor], train: ClipSet, held_out: ClipSet
) -> tuple[np.ndarray, dict[str, float]]:
    """What the kept weights, which the model then has, make of the held-out clips.

    Returns:
        Their features [clips, F] as `clip_features` has them; the accuracy with which their nearest training clips tell their
        pooled class and their source, as knn_accuracy and knn_source_accuracy.
    """
    model.backbone.network.load_state_dict(weights)
    model.eval()
    known, asked = (clip_features(model, part) for part in (train, held_out))
    sources = sorted({*train.table["source"], *held_out.table["source"]})
    numbers = [torch.tensor([sources.index(name) for name in part.table["source"]]) for part in (train, held_out)]
    return asked.numpy(), {
        "knn_accuracy": nearest_tell(known, asked, train.clips.label.cpu(), held_out.clips.label.cpu()),
        "knn_source_accuracy": nearest_tell(known, asked, *numbers),
    }


def knn_accuracy(model: ContrastiveMethod, train: ClipSet, held_out: ClipSet) -> float:
    """Accuracy with which the nearest training clips tell the pooled classes of the held-out ones."""
    labels = [part.clips.label.cpu() for part in (train, held_out)]
    if not all((label >= 0).any() for label in labels):
        return math.nan
    return nearest_tell(clip_features(model, train), clip_features(model, held_out), *labels)


def nearest_tell(known: torch.Tensor, asked: torch.Tensor, labels: torch.Tensor, asked_labels: torch.Tensor) -> float:
    """Accuracy of scikit-learn's nearest neighbours (cosine, one vote each) where both sides have a label, 0 and above.

    Args:
        known, asked: features [n, F] and [m, F].
        labels, asked_labels: [n] and [m], −1 where unlabelled; NaN where one side has no label at all.
    """
    labelled, wanted = labels >= 0, asked_labels >= 0
    if not (labelled.any() and wanted.any()):
        return math.nan
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, int(labelled.sum())), metric="cosine")
    return float(neighbours.fit(known[labelled], labels[labelled]).score(asked[wanted], asked_labels[wanted]))


def clip_features(model: ContrastiveMethod, clip_set: ClipSet) -> torch.Tensor:
    """The mean unit feature of a few frames of every clip, not augmented, [clips, F] on the CPU."""
    spread = torch.linspace(0, 1, FRAMES, device=clip_set.first.device)
    places = ((clip_set.clips.count[:, None] - 1) * spread).round().long() + clip_set.first[:, None]
    parts = []
    for rows in places.split(64):
        frames = clip_set.frames[rows.flatten()]
        parts.append(unit(model.backbone(model.views.normalise(frames))).unflatten(0, rows.shape).mean(1))
    return torch.cat(parts).cpu()
