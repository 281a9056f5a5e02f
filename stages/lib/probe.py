"""Whether the features get better: measures on the held-out clips, the same for every method."""

import math

import torch
from sklearn.neighbors import KNeighborsClassifier

from stages.lib.clip_set import ClipSet
from stages.lib.method import ContrastiveMethod
from stages.lib.networks import unit

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


def knn_accuracy(model: ContrastiveMethod, train: ClipSet, held_out: ClipSet) -> float:
    """Accuracy of scikit-learn's nearest neighbours (cosine, one vote each) from training to held-out clips."""
    known, asked = (part.clips.label.cpu() >= 0 for part in (train, held_out))
    if not (known.any() and asked.any()):
        return math.nan
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, int(known.sum())), metric="cosine")
    neighbours.fit(clip_features(model, train)[known], train.clips.label.cpu()[known])
    return float(neighbours.score(clip_features(model, held_out)[asked], held_out.clips.label.cpu()[asked]))


def clip_features(model: ContrastiveMethod, clip_set: ClipSet) -> torch.Tensor:
    """The mean unit feature of a few frames of every clip, not augmented, [clips, F] on the CPU."""
    spread = torch.linspace(0, 1, FRAMES, device=clip_set.first.device)
    places = ((clip_set.clips.count[:, None] - 1) * spread).round().long() + clip_set.first[:, None]
    parts = []
    for rows in places.split(64):
        frames = clip_set.frames[rows.flatten()]
        parts.append(unit(model.backbone(model.views.normalise(frames))).unflatten(0, rows.shape).mean(1))
    return torch.cat(parts).cpu()
