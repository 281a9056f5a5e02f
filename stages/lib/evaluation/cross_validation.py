"""Cross-validation of a task: for every seed and fold a network that never saw a frame of the patients it predicts."""

from typing import NamedTuple

import torch

from stages.lib.evaluation.fine_tuning import Recipe, fit, inner_loss, predict
from stages.lib.evaluation.folds import check_apart
from stages.lib.evaluation.held_out_maps import HeldOutMaps
from stages.lib.evaluation.preparation import TaskFrames
from stages.lib.networks.backbone import Classifier
from stages.lib.training.progress import Progress
from stages.lib.training.resume import Resume


class Training(NamedTuple):
    """One training of the cross-validation: its seed, its held-out fold, and the clips of each part (`folds.parts`)."""

    seed: int
    fold: int
    parts: dict[str, set[str]]


def cross_validate(
    recipe: Recipe, frames: TaskFrames, trainings: list[Training], maps: HeldOutMaps | None, resume: Resume, name: str
) -> tuple[dict[int, torch.Tensor], list[dict], list[dict]]:
    """Train and predict every seed and fold that `resume` does not hold yet.

    Args:
        maps: makes Grad-CAM maps with the networks of the first seed; None for no maps.
        name: of the run, printed beside the progress.

    Returns:
        Class probabilities [N, classes] by seed; a row of numbers per seed, fold and epoch; a row per map.
    """
    empty = {training.seed: torch.zeros(len(frames.table), len(recipe.classes)) for training in trainings}
    state = resume.load() or {"predicted": empty, "rows": [], "maps": []}
    predicted, rows, made = (state[key] for key in ("predicted", "rows", "maps"))
    folds = 1 + max(training.fold for training in trainings)
    progress = Progress(name, len(trainings) * recipe.epochs, len(rows))
    for seed, fold, parts in trainings[len(rows) // recipe.epochs:]:
        places = rows_of(frames, parts)
        held_out, losses = places["held_out"], []
        for network, loss in fit(recipe, frames, places["training"], seed * folds + fold):
            probabilities = predict(network, frames, held_out, recipe.views).softmax(1)
            losses.append(inner_loss(network, frames, places["inner"], recipe.views))
            correct = int((probabilities.argmax(1) == frames.labels[held_out]).sum())
            rows.append({"seed": seed, "fold": fold, "epoch": len(losses) - 1, "loss": loss, "inner_loss": losses[-1],
                         "held_out_correct": correct, "held_out_frames": len(held_out)})
            if is_kept(losses, recipe.epochs, bool(parts["inner"])):
                predicted[seed][held_out.cpu()] = probabilities.cpu()
                first = maps is not None and seed == trainings[0].seed
                kept = maps.of_fold(network, frames, held_out, probabilities, recipe) if first else []
            progress.step(fold=fold, loss=loss)
        made += [{"seed": seed, "fold": fold} | line for line in kept]
        resume.save(predicted=predicted, rows=rows, maps=made)
    return predicted, rows, made


def rows_of(frames: TaskFrames, parts: dict[str, set[str]]) -> dict[str, torch.Tensor]:
    """The row numbers of each part's frames, on the device.

    Raises:
        AssertionError: a patient has frames in two parts.
    """
    inside = {name: frames.table["clip"].isin(clips).to_numpy() for name, clips in parts.items()}
    check_apart(frames.table, inside)
    return {name: torch.from_numpy(mask.nonzero()[0]).to(frames.grey.device) for name, mask in inside.items()}


def is_kept(losses: list[float], epochs: int, inner: bool) -> bool:
    """True if the predictions of the epoch just done replace the earlier ones.

    Without an inner part the last epoch predicts, with one the epoch of the lowest inner loss.

    Args:
        losses: inner losses so far; of equal ones the first counts, and a first one that is NaN stays.
    """
    if not inner:
        return len(losses) == epochs
    return len(losses) == 1 or losses[-1] < min(losses[:-1])


def on_all(recipe: Recipe, frames: TaskFrames, stream: int, name: str) -> Classifier:
    """The network for use: trained on all frames to the last epoch, with the random numbers of `stream`."""
    everyone = torch.arange(len(frames.grey), device=frames.grey.device)
    progress = Progress(name, recipe.epochs)
    for fitted in fit(recipe, frames, everyone, stream):        # the network and its loss, after every epoch
        progress.step(loss=fitted[1])
    return fitted[0]
