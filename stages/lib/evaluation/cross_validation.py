"""Cross-validation of a task: for every seed and fold a network that never saw a frame of the patients it predicts."""

import torch

from stages.lib.evaluation.fine_tuning import Frames, Recipe, fit, inner_loss, predict
from stages.lib.evaluation.folds import check_apart
from stages.lib.evaluation.held_out_maps import HeldOutMaps
from stages.lib.networks.backbone import Classifier
from stages.lib.training.progress import Progress
from stages.lib.training.resume import Resume


def cross_validate(
    recipe: Recipe, frames: Frames, runs: list[tuple[int, int, dict]], maps: HeldOutMaps | None, resume: Resume, what: str
) -> tuple[dict[int, torch.Tensor], list[dict], list[dict]]:
    """Train and predict every seed and fold that `resume` does not hold yet.

    Args:
        runs: seed, fold and `folds.parts` of each training.
        maps: of where the networks of the first seed look, if any are wanted.
        what: to write beside the progress.

    Returns:
        Class probabilities [N, classes] by seed; a row of numbers per seed, fold and epoch; the lines of the maps.
    """
    empty = {seed: torch.zeros(len(frames.table), len(recipe.classes)) for seed, _, _ in runs}
    state = resume.load() or {"predicted": empty, "rows": [], "looks": []}
    predicted, rows, looks = (state[name] for name in ("predicted", "rows", "looks"))
    folds = 1 + max(fold for _, fold, _ in runs)
    epochs_done = Progress(what, len(runs) * recipe.epochs, len(rows))
    for seed, fold, part in runs[len(rows) // recipe.epochs:]:
        inside = {name: frames.table["clip"].isin(clips).to_numpy() for name, clips in part.items()}
        check_apart(frames.table, inside)
        places = {name: torch.from_numpy(where.nonzero()[0]).to(frames.grey.device) for name, where in inside.items()}
        held_out, losses = places["held_out"], []
        for network, loss in fit(recipe, frames, places["training"], seed * folds + fold):
            probabilities = predict(network, frames, held_out, recipe.views).softmax(1)
            losses.append(inner_loss(network, frames, places["inner"], recipe.views))
            correct = int((probabilities.argmax(1) == frames.labels[held_out]).sum())
            rows.append({"seed": seed, "fold": fold, "epoch": len(losses) - 1, "loss": loss, "inner_loss": losses[-1],
                         "held_out_correct": correct, "held_out_frames": len(held_out)})
            if chosen(losses, recipe.epochs, bool(part["inner"])):
                predicted[seed][held_out.cpu()] = probabilities.cpu()
                wanted = maps if seed == runs[0][0] else None
                found = wanted.of_fold(network, frames, held_out, probabilities, recipe) if wanted else []
            epochs_done.step(fold=fold, loss=loss)
        looks += [{"seed": seed, "fold": fold} | line for line in found]
        resume.save(predicted=predicted, rows=rows, looks=looks)
    return predicted, rows, looks


def chosen(losses: list[float], epochs: int, inner: bool) -> bool:
    """Whether the epoch just done is, of those so far, the one that predicts: the last, or that of the lowest inner loss.

    Args:
        losses: inner losses so far; of equal ones the first counts, and a first one that is NaN stays.
    """
    if not inner:
        return len(losses) == epochs
    return len(losses) == 1 or losses[-1] < min(losses[:-1])


def on_all(recipe: Recipe, frames: Frames, stream: int, what: str) -> Classifier:
    """The network for use: trained on all frames to the last epoch, with the random numbers of `stream`."""
    everyone = torch.arange(len(frames.grey), device=frames.grey.device)
    epochs_done = Progress(what, recipe.epochs)
    for fitted in fit(recipe, frames, everyone, stream):        # the network and its loss, after every epoch
        epochs_done.step(loss=fitted[1])
    return fitted[0]
